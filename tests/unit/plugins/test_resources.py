"""Files that specs name: package resources, paths, hub repositories."""

import hashlib
import io
import os
import sys
import types
from pathlib import Path

import pytest

import tove_experts
from tove_plugins import ExpertBuildError, find_weights, resolve_resource, sha256_of


def test_package_resources_and_paths() -> None:
    folder = Path(tove_experts.__file__).parent
    assert resolve_resource("pkg:tove_experts/plugin.py") == folder / "plugin.py"
    assert resolve_resource("some/file") == Path("some/file")
    assert resolve_resource("~/file") == Path.home() / "file"


@pytest.mark.parametrize(
    ("reference", "words"),
    [("pkg:not_there_at_all/x", "not installed"), ("pkg:tove_experts", "names no file")],
)
def test_a_reference_to_nothing_is_a_sentence(reference: str, words: str) -> None:
    with pytest.raises(FileNotFoundError, match=words):
        resolve_resource(reference)


def test_digest_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ExpertBuildError, match="no weights file"):
        sha256_of(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"a")
    assert sha256_of(tmp_path) == hashlib.sha256(b"a").hexdigest()
    (tmp_path / "b.safetensors").write_bytes(b"b")
    both = sha256_of(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"c")
    assert sha256_of(tmp_path) != both


def fake_hub(monkeypatch: pytest.MonkeyPatch, folder: Path, error: Exception | None) -> list:
    calls = []

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repo, revision))
        if error:
            raise error
        return str(folder)

    def hf_hub_download(repo: str, file: str, revision: str | None) -> str:
        calls.append((repo, file, revision))
        return str(folder / file)

    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download, hub.hf_hub_download = snapshot_download, hf_hub_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return calls


def test_hub_references(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a")
    calls = fake_hub(monkeypatch, tmp_path, None)
    assert find_weights("hub:org/name@v2") == tmp_path
    assert find_weights("hub:org/name/model.safetensors") == tmp_path / "model.safetensors"
    assert calls == [("org/name", "v2"), ("org/name", "model.safetensors", None)]
    with pytest.raises(FileNotFoundError, match="hub:ORG/NAME"):
        find_weights("hub:name")


def test_offline_tells_what_to_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_hub(monkeypatch, tmp_path, ConnectionError("offline"))
    with pytest.raises(FileNotFoundError, match="hf download org/name"):
        find_weights("hub:org/name")


class Answer(io.BytesIO):
    """What a server sends: all of a file, or less than it said."""

    def __init__(self, content: bytes, size: int | None) -> None:
        super().__init__(content)
        self.headers = {} if size is None else {"Content-Length": str(size)}


def fake_web(
    monkeypatch: pytest.MonkeyPatch, content: bytes | Exception | None, size: int | None = None
) -> list[str]:
    """Serve the content, or of None the URL itself."""
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> Answer:
        asked.append(url)
        if isinstance(content, Exception):
            raise content
        return Answer(url.encode() if content is None else content, size)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return asked


def test_a_url_is_fetched_once_and_held_against_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOVE_CACHE", str(tmp_path))
    asked = fake_web(monkeypatch, b"numbers")
    name = f"net-{hashlib.sha256(b'numbers').hexdigest()[:8]}.pth"
    found = find_weights(f"https://zoo.example/{name}")
    assert found == tmp_path / "weights" / name
    assert found.read_bytes() == b"numbers"
    assert find_weights(f"https://zoo.example/{name}") == found
    assert len(asked) == 1
    with pytest.raises(ExpertBuildError, match="as its name tells"):
        find_weights("https://zoo.example/net-00000000.pth")
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [name]


def test_what_a_killed_fetch_left_goes_with_the_next_one_and_a_living_one_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOVE_CACHE", str(tmp_path))
    fake_web(monkeypatch, b"numbers")
    name = f"net-{hashlib.sha256(b'numbers').hexdigest()[:8]}.pth"
    folder = tmp_path / "weights"
    folder.mkdir()
    for left in (f".{name}.1", f".{name}.2", ".other.pth.1"):
        (folder / left).write_bytes(b"num")
    for left in (f".{name}.1", ".other.pth.1"):
        os.utime(folder / left, (0, 0))
    find_weights(f"https://zoo.example/{name}")
    assert {path.name for path in folder.iterdir()} == {name, f".{name}.2", ".other.pth.1"}


def test_a_cached_file_is_held_against_its_name_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOVE_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    digest = hashlib.sha256(b"numbers").hexdigest()[:8]
    url = f"https://zoo.example/net-{digest}.pth"
    file = tmp_path / "weights" / f"net-{digest}.pth"
    file.parent.mkdir()
    file.write_bytes(b"put here by hand, and cut off")
    with pytest.raises(ExpertBuildError, match=f"as its name tells: .* Delete {file}; it is"):
        find_weights(url)
    file.write_bytes(b"numbers")
    assert find_weights(url) == file
    read = []
    monkeypatch.setattr("tove_plugins._resources.sha256_of", read.append)
    assert find_weights(url) == file
    assert not read  # once is enough: a run asks for its weights at every turn
    monkeypatch.undo()
    monkeypatch.setenv("TOVE_CACHE", str(tmp_path))
    file.write_bytes(b"other numbers")  # another file since: once was for the file that it was
    with pytest.raises(ExpertBuildError, match="as its name tells"):
        find_weights(url)


def test_a_url_that_cannot_be_had_tells_where_to_put_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOVE_CACHE", str(tmp_path))
    fake_web(monkeypatch, ConnectionError("no route"))
    wanted = f"put it at {tmp_path}/weights/[0-9a-f]+/net.pth"
    with pytest.raises(FileNotFoundError, match=f"no route.*{wanted}"):
        find_weights("https://zoo.example/net.pth")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=f"forbids fetching.*{wanted}"):
        find_weights("https://zoo.example/net.pth")
    assert not list((tmp_path / "weights").rglob("*.pth"))


def test_urls_of_one_file_name_are_different_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOVE_CACHE", str(tmp_path))
    fake_web(monkeypatch, None)
    urls = [f"https://hub.example/{name}/model.safetensors" for name in ("depth", "edges")]
    for url in [*urls, *urls, "https://hub.example/model.safetensors?of=depth"]:
        assert find_weights(url).read_text() == url
        assert find_weights(url).name == "model.safetensors"


def test_a_download_that_breaks_off_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOVE_CACHE", str(tmp_path))
    fake_web(monkeypatch, b"numb", size=7)
    with pytest.raises(FileNotFoundError, match="broke off after 4 of 7 bytes"):
        find_weights("https://zoo.example/net.pth")
    fake_web(monkeypatch, b"numbers", size=7)
    assert find_weights("https://zoo.example/net.pth").read_bytes() == b"numbers"
