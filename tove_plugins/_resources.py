"""Find files that specs and configs name: package resources, paths, hubs, URLs; digests."""

import contextlib
import importlib.util
import os
import re
import time
from pathlib import Path

from tove_plugins._errors import ExpertBuildError
from tove_plugins._weights_files import WEIGHT_SUFFIXES

__all__ = ["find_weights", "resolve_resource", "sha256_of"]

_HUB = re.compile(r"hub:(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")
# Files of the cache that were held against their names, by size and time: a run asks many times.
_held: set[tuple[Path, int, int]] = set()
_DEAD = 3600.0  # seconds since a fetch last wrote; one that lives gives up after one minute
_FOLDER_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")


def resolve_resource(reference: str | Path) -> Path:
    """Turn "pkg:PACKAGE/PATH" or a path into a path, without importing the package's modules.

    Args:
        reference: "pkg:tove_experts/weights/x.safetensors" for a file or folder that an installed
            package holds, or a path; `~` is expanded.

    Returns:
        The path. A package's part is not tested for existence, a missing package is an error.

    Raises:
        FileNotFoundError: The package is not importable, or the reference names no file in it.
    """
    text = str(reference)
    if not text.startswith("pkg:"):
        return Path(text).expanduser()
    package, _, inside = text.removeprefix("pkg:").partition("/")
    if not package or not inside:
        raise FileNotFoundError(
            f"'{text}' names no file; write it as 'pkg:PACKAGE/PATH/INSIDE/IT'."
        )
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    roots = list(found.submodule_search_locations or ()) if found else []
    if not roots:
        raise FileNotFoundError(
            f"'{text}' points into the package '{package}', which is not installed here; "
            "install the distribution that brings it, or give a path."
        )
    candidates = [Path(root) / inside for root in roots]
    return next((path for path in candidates if path.exists()), candidates[0])


def find_weights(source: str | Path) -> Path:
    """Find the file or folder that `Weights.source` (or a path in its place) names.

    A hub repository or a URL is looked up in the local cache and fetched if it is not there, which
    HF_HUB_OFFLINE=1 forbids. Files of URLs are kept in the folder TOVE_CACHE, ~/.cache/tove where
    it is not set.

    Raises:
        FileNotFoundError: It is nowhere; the message tells what to fetch and where to put it.
        ExpertBuildError: What a URL gave, or what the cache has of it, has another digest than its
            name tells.
    """
    text = str(source)
    if text.startswith("hub:"):
        return _from_hub(text)
    if text.startswith("https://"):
        return _from_url(text)
    path = resolve_resource(source)
    if not path.exists():
        raise FileNotFoundError(
            f"The weights '{text}' are not at {path}; put them there, or point `weights` of the "
            "expert at the file."
        )
    return path


def _from_hub(source: str) -> Path:
    match = _HUB.fullmatch(source)
    if match is None:
        raise FileNotFoundError(
            f"'{source}' is no hub reference; write it as 'hub:ORG/NAME[@REVISION][/FILE]'."
        )
    repo, revision, file = match["repo"], match["revision"], match["file"]
    try:
        from huggingface_hub import hf_hub_download, snapshot_download

        if file:
            return Path(hf_hub_download(repo, file, revision=revision))
        folder = Path(
            snapshot_download(repo, revision=revision, allow_patterns=list(_FOLDER_PATTERNS))
        )
        if not any(folder.rglob("*.safetensors")):
            snapshot_download(repo, revision=revision, allow_patterns=["*.bin"])
    except Exception as error:  # the hub's client raises a dozen kinds, the network's own too
        target = f"{repo} {file}" if file else repo
        raise FileNotFoundError(
            f"The weights '{source}' are not in the local cache and could not be fetched "
            f"({type(error).__name__}). Where there is a network run `hf download {target}`; or "
            "copy the files here and point `weights` of the expert at them."
        ) from error
    return folder


def _from_url(url: str) -> Path:
    """Find a URL's file in the cache, or fetch it there, whole or not at all."""
    import hashlib  # listing needs no digest, and OpenSSL takes milliseconds to load

    name = url.partition("?")[0].rpartition("/")[2]
    folder = Path(os.environ.get("TOVE_CACHE", "~/.cache/tove")).expanduser() / "weights"
    if not _DIGEST_IN_NAME.search(name):  # half of all weights are called model.safetensors
        folder /= hashlib.sha256(url.encode()).hexdigest()[:12]
    target = folder / name
    if target.is_file():
        _check_cached(target)
        return target
    where = f"Fetch {url} where there is a network and put it at {target}."
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise FileNotFoundError(
            f"The weights '{name}' are not in the local cache, and HF_HUB_OFFLINE forbids fetching "
            f"them. {where}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _remove_dead(folder, name)
    partial = folder / f".{name}.{os.getpid()}"
    try:
        _fetch(url, partial)
        _check_name(name, partial, f"What was fetched as '{name}'", "Nothing was kept; try again.")
        partial.replace(target)
    except OSError as error:
        raise FileNotFoundError(
            f"The weights '{name}' are not in the local cache and could not be fetched "
            f"({type(error).__name__}: {error}). {where}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _remove_dead(folder: Path, name: str) -> None:
    """Remove what killed processes have fetched of a file."""
    for left in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a living one may just have ended
            own = left.name.startswith(f".{name}.")
            if own and time.time() - left.stat().st_mtime > _DEAD:
                left.unlink()


def _fetch(url: str, target: Path) -> None:
    import shutil
    from urllib.request import urlopen

    with urlopen(url, timeout=60) as answer, target.open("wb") as stream:
        shutil.copyfileobj(answer, stream)
        told, came = answer.headers.get("Content-Length"), stream.tell()
    if told is not None and came != int(told):  # a connection that breaks off raises nothing
        raise OSError(f"the connection broke off after {came} of {told} bytes")


def _check_cached(file: Path) -> None:
    """Hold a file of the cache against its name, once: somebody may have put it there by hand."""
    state = file.stat()
    seen = (file, state.st_size, state.st_mtime_ns)
    if seen not in _held:
        mend = f"Delete {file}; it is fetched anew, or put the right one there."
        _check_name(file.name, file, f"The cached file '{file.name}'", mend)
        _held.add(seen)


def _check_name(name: str, file: Path, what: str, mend: str) -> None:
    """Hold a file against the digest that its name ends in, as model zoos write it."""
    told = _DIGEST_IN_NAME.search(name)
    if told and not (digest := sha256_of(file)).startswith(told[1]):
        raise ExpertBuildError(
            f"{what} has sha256 {digest}, not {told[1]}... as its name tells: it is damaged or "
            f"another file. {mend}"
        )


def sha256_of(path: Path) -> str:
    """Give the digest of a weights file or of a folder's weights.

    A folder with one weights file has that file's digest; one with several (shards) the digest of
    the lines "digest  name" in the order of their names.

    Raises:
        ExpertBuildError: The folder holds no weights file.
    """
    import hashlib  # listing needs no digest, and OpenSSL takes milliseconds to load

    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    files = sorted(f for f in path.rglob("*") if f.suffix in WEIGHT_SUFFIXES and f.is_file())
    if not files:
        raise ExpertBuildError(
            f"{path} holds no weights file ({', '.join(WEIGHT_SUFFIXES)}); point `weights` at "
            "the folder that does."
        )
    if len(files) == 1:
        return sha256_of(files[0])
    lines = [f"{sha256_of(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
