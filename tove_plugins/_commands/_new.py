"""`new`: write a plugin package to start from, complete with tests that pass."""

import argparse
import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tove_plugins
from tove_plugins._commands._finding import find_experts, find_methods
from tove_plugins._errors import CommandError

__all__ = ["add_arguments", "run"]

NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
# What running a template's own tests leaves in a checkout's copy of it.
LEFTOVERS = frozenset({"__pycache__", ".pytest_cache", ".ruff_cache", "dist"})


@dataclass(frozen=True, slots=True)
class Template:
    """A package to start from.

    It is the package of an expert called my_expert, or of a method called my_method, and a working
    package itself; another name is put in the place of this one.

    Args:
        noun: What the package holds.
        folder: Of the template in a checkout.
        installed: Of the template beside the modules, in a wheel.
        suffix: What the class's name ends with, whether the name does or not.
        module: The file to make one's own, and what it is.
        role: What `plugin.py` says.
    """

    noun: str
    folder: str
    installed: str
    suffix: str
    module: tuple[str, str]
    role: str

    def find(self) -> Path:
        """Return its folder: a wheel holds it beside the modules, a checkout in `templates/`."""
        package = Path(tove_plugins.__file__).parent
        installed = package / self.installed
        return installed if installed.is_dir() else package.parent / self.folder


EXPERT = Template(
    noun="expert",
    folder="templates/expert",
    installed="_template",
    suffix="Expert",
    module=("expert.py", "network"),
    role="what it takes and gives",
)
METHOD = Template(
    noun="method",
    folder="templates/method",
    installed="_template_method",
    suffix="",
    module=("method.py", "model"),
    role="what a config can name",
)


@dataclass(frozen=True, slots=True)
class PackageNames:
    """One name in its forms, for `my-expert`: my_expert, tove-my-expert, tove_my_expert, MyExpert.

    Args:
        plain: The name in lower case letters and digits with - or _ between its words.
        template: The package that it is put into.
    """

    plain: str
    template: Template

    @property
    def own(self) -> str:
        """The name of the expert or the method."""
        return self.plain.replace("-", "_")

    @property
    def distribution(self) -> str:
        """What pip installs; also the folder."""
        return f"tove-{self.own.replace('_', '-')}"

    @property
    def package(self) -> str:
        """What Python imports; prefixed, for a module called `depth` would clash some day."""
        return f"tove_{self.own}"

    @property
    def factory(self) -> str:
        """The name of the class."""
        suffix = self.template.suffix
        words = f"{self.own}_".removesuffix(f"_{suffix.lower()}_").split("_")
        return "".join(word.capitalize() for word in words) + suffix

    def put_into(self, text: bytes) -> bytes:
        """Write these names where the template has its own."""
        noun = self.template.noun
        names = {
            f"tove-my-{noun}": self.distribution,
            f"tove_my_{noun}": self.package,
            f"my-{noun}": self.own.replace("_", "-"),
            f"my_{noun}": self.own,
            f"My{noun.capitalize()}": self.factory,
        }
        # At once: one after the other would find the template's name within a dummy_expert's.
        old = re.compile("|".join(names).encode())
        return old.sub(lambda match: names[match[0].decode()].encode(), text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument(
        "name", metavar="NAME", help="what the expert or method will be called, my-expert say"
    )
    parser.add_argument(
        "--method", action="store_true", help="the package of a method instead of an expert's"
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
    names = _checked_names(parsed.name, METHOD if parsed.method else EXPERT)
    template = names.template
    file, what = template.module
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
        f"Wrote {folder}, the package of {_article(template.noun)} called '{names.own}'. Next:\n"
        f"  cd {shlex.quote(str(folder))}\n"
        "  pip install -e '.[test]'\n"
        "  pytest\n"
        f"Then make it yours: src/{names.package}/{file} is the {what}, plugin.py beside it says "
        f"{template.role}. README.md is yours to rewrite before you publish."
    )
    return 0


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _checked_names(text: str, template: Template) -> PackageNames:
    plain = re.sub(r"^tove[-_]", "", text)
    noun = template.noun
    if not NAME.fullmatch(plain):
        raise CommandError(
            f"'{text}' cannot name {_article(noun)}; use lower case letters and digits, a letter "
            f"first, with single - or _ between words: my-{noun}."
        )
    names = PackageNames(plain, template)
    catalog = find_methods() if template is METHOD else find_experts()
    if names.own in [entry.spec.name for entry in catalog.every()]:
        raise CommandError(
            f"{_article(noun).capitalize()} called '{names.own}' is installed here already, and "
            "two of one name exclude each other; choose another name."
        )
    if importlib.util.find_spec(names.package) is not None:
        raise CommandError(
            f"A package called {names.package} is installed here already; choose another name."
        )
    return names


def _rendered(names: PackageNames) -> Iterator[tuple[Path, bytes]]:
    """Give the files of the new package by their paths in it."""
    template = names.template.find()
    for file in sorted(template.rglob("*")):
        inside = file.relative_to(template)
        if file.is_file() and not LEFTOVERS.intersection(inside.parts):
            renamed = names.put_into(inside.as_posix().encode()).decode()
            yield Path(renamed), names.put_into(file.read_bytes())
