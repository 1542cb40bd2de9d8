"""`new`: write a plugin package to start from, complete with tests that pass."""

import argparse
import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tove_plugins
from tove_plugins._commands._finding import find_experts
from tove_plugins._errors import CommandError

__all__ = ["add_arguments", "run"]

NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
# What running the template's own tests leaves in a checkout's copy of it.
LEFTOVERS = frozenset({"__pycache__", ".pytest_cache", ".ruff_cache", "dist"})


@dataclass(frozen=True, slots=True)
class PackageNames:
    """One name in its forms, for `my-expert`: my_expert, tove-my-expert, tove_my_expert, MyExpert.

    The template is the package of an expert called my-expert, so that it is a working package
    itself; another name is put in the place of this one.

    Args:
        plain: The name in lower case letters and digits with - or _ between its words.
    """

    plain: str

    @property
    def expert(self) -> str:
        """The expert's name in configs."""
        return self.plain.replace("-", "_")

    @property
    def distribution(self) -> str:
        """What pip installs; also the folder."""
        return f"tove-{self.expert.replace('_', '-')}"

    @property
    def package(self) -> str:
        """What Python imports; prefixed, for a module called `depth` would clash some day."""
        return f"tove_{self.expert}"

    @property
    def factory(self) -> str:
        """The name of the class."""
        words = self.expert.removesuffix("_expert").split("_")
        return "".join(word.capitalize() for word in words) + "Expert"

    def put_into(self, text: bytes) -> bytes:
        """Write these names where the template has its own."""
        names = {
            b"tove-my-expert": self.distribution,
            b"tove_my_expert": self.package,
            b"my_expert": self.expert,
            b"MyExpert": self.factory,
        }
        # At once: one after the other would find the template's name within a dummy_expert's.
        old = re.compile(b"|".join(names))
        return old.sub(lambda match: names[match[0]].encode(), text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "name", metavar="NAME", help="what the expert will be called, my-expert say"
    )
    parser.add_argument(
        "--to",
        metavar="DIR",
        type=Path,
        default=Path(),
        help="where the package's folder is made (default: here)",
    )


def run(parsed: argparse.Namespace) -> int:
    """Write a package and tell what to do next."""
    names = _checked_names(parsed.name)
    folder = parsed.to / names.distribution
    if folder.exists():
        raise CommandError(
            f"{folder} is there already and is left as it is; choose another name, or another "
            "place with --to."
        )
    try:
        for path, content in _rendered(names):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    except OSError as error:
        raise CommandError(f"{folder} cannot be written: {error}.") from error
    print(
        f"Wrote {folder}, the package of an expert called '{names.expert}'. Next:\n"
        f"  cd {shlex.quote(str(folder))}\n"
        "  pip install -e '.[test]'\n"
        "  pytest\n"
        f"Then make it yours: src/{names.package}/expert.py is the network, plugin.py beside it "
        "says what it takes and gives."
    )
    return 0


def _checked_names(text: str) -> PackageNames:
    plain = re.sub(r"^tove[-_]", "", text)
    if not NAME.fullmatch(plain):
        raise CommandError(
            f"'{text}' cannot name an expert; use lower case letters and digits, a letter first, "
            "with single - or _ between words: my-expert."
        )
    names = PackageNames(plain)
    catalog = find_experts()
    if names.expert in catalog.experts or names.expert in catalog.contested:
        raise CommandError(
            f"An expert called '{names.expert}' is installed here already, and two of one name "
            "exclude each other; choose another name."
        )
    if importlib.util.find_spec(names.package) is not None:
        raise CommandError(
            f"A package called {names.package} is installed here already; choose another name."
        )
    return names


def _rendered(names: PackageNames) -> Iterator[tuple[Path, bytes]]:
    """Give the files of the new package by their paths in it."""
    template = _template()
    for file in sorted(template.rglob("*")):
        inside = file.relative_to(template)
        if file.is_file() and not LEFTOVERS.intersection(inside.parts):
            renamed = names.put_into(inside.as_posix().encode()).decode()
            yield Path(renamed), names.put_into(file.read_bytes())


def _template() -> Path:
    """Find the template: the wheel holds it beside the modules, a checkout in `templates/`."""
    package = Path(tove_plugins.__file__).parent
    installed = package / "_template"
    return installed if installed.is_dir() else package.parent / "templates/expert"
