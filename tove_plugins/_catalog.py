"""What discovery found: entries by name, and what became of every plugin."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from tove_plugins._errors import ExpertNotAvailable, MethodNotAvailable, NotAvailable
from tove_plugins.method_spec import MethodSpec
from tove_plugins.specs import ExpertSpec

__all__ = [
    "Catalog",
    "Entry",
    "ExpertEntry",
    "Found",
    "MethodCatalog",
    "MethodEntry",
    "PluginRecord",
    "Status",
    "mend_conflict",
]

Status = Literal["active", "blocked", "error", "incompatible", "conflict"]
MAX_CAUSES = 3  # plugins that did not load and whose reasons one message tells
S = TypeVar("S", ExpertSpec, MethodSpec)
E = TypeVar("E", bound="Entry[Any]")


@dataclass(frozen=True, slots=True)
class Entry(Generic[S]):
    """What a plugin brings, with where it comes from.

    Args:
        spec: What the plugin says about it.
        distribution: The installed distribution that brought it.
        version: That distribution's version.
        plugin: The name of the plugin, its entry point's.
    """

    spec: S
    distribution: str
    version: str
    plugin: str

    @property
    def origin(self) -> str:
        """The plugin as messages name it."""
        return f"plugin '{self.plugin}' of {self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class ExpertEntry(Entry[ExpertSpec]):
    """An expert, with where it comes from."""

    spec: ExpertSpec


@dataclass(frozen=True, slots=True)
class MethodEntry(Entry[MethodSpec]):
    """A method, with where it comes from."""

    spec: MethodSpec


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """One plugin and what became of it.

    Args:
        name: The name of its entry point.
        distribution: The distribution that declares it.
        version: That distribution's version.
        status: "active", "blocked" (by the environment), "error", "incompatible" (asks for a
            newer API) or "conflict" (a name of it is taken by another plugin as well).
        reason: A sentence on the status; for an active plugin a remark, or empty.
        names: What of it can be used, by name.
        module: What the entry point refers to.
        seconds: How long it took to load.
        kind: "expert" or "method".
    """

    name: str
    distribution: str
    version: str
    status: Status
    reason: str
    names: tuple[str, ...]
    module: str = ""
    seconds: float = 0.0
    kind: str = "expert"

    @property
    def label(self) -> str:
        """The plugin as messages name it."""
        return f"plugin '{self.name}' of {self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class Found(Generic[E]):
    """All of one kind that the plugins of this environment bring.

    Args:
        entries: By name, in alphabetical order.
        plugins: One record per plugin, the built-in one first.
        contested: For what several plugins claim, the entries of all claimants.
        notes: Remarks on the environment, a block list that names nothing, for example.
    """

    noun: ClassVar[str]
    not_available: ClassVar[type[NotAvailable]]

    entries: Mapping[str, E]
    plugins: tuple[PluginRecord, ...]
    contested: Mapping[str, tuple[E, ...]]
    notes: tuple[str, ...] = ()

    def every(self) -> list[E]:
        """Return all entries, contested ones too, by name."""
        found = list(self.entries.values())
        for claimants in self.contested.values():
            found += [entry for entry in claimants if entry not in found]
        return sorted(found, key=lambda entry: entry.spec.name)

    def status(self, entry: E) -> Status:
        """Say whether it can be used; its plugin may be unwell for another one's sake."""
        contested = any(entry in claimants for claimants in self.contested.values())
        return "conflict" if contested else "active"

    def get(self, name: str) -> E:
        """Return the entry of a name.

        Raises:
            NotAvailable: No plugin offers it, or more than one does.
        """
        if name in self.entries:
            return self.entries[name]
        for claim, claimants in self.contested.items():
            if name == claim or any(entry.spec.name == name for entry in claimants):
                raise self.not_available(self.explain_contested(claim))
        raise self.not_available(self.explain_unknown(name))

    def explain_contested(self, claim: str) -> str:
        """Say who claims a name that several claim, and how to choose."""
        claimants = self.contested[claim]
        return (
            f"{self.noun.capitalize()} '{claim}' is claimed by "
            f"{' and by '.join(c.origin for c in claimants)}, and "
            f"none of them is preferred; {mend_conflict(claimants)}."
        )

    def explain_unknown(self, name: str, others: Iterable[str] = ()) -> str:
        """Say that nothing of the kind has this name, and which ones come close.

        Args:
            name: What was asked for.
            others: Names that are known besides the catalog's.
        """
        import difflib  # for this sentence only

        parts = [f"No {self.noun} is called '{name}'."]
        known = sorted({*self.entries, *others})
        plain = name.lower().replace("-", "_")
        close = [plain] if plain in known else difflib.get_close_matches(name, known, cutoff=0.5)
        if close:
            parts.append(f"Did you mean {' or '.join(repr(match) for match in close)}?")
        else:
            parts.append(f"None of the {len(known)} that are known comes close.")
        parts += self.causes(name)
        parts.append(
            "If another package brings it, install that package; "
            "`python -m tove_plugins list` tells what is installed."
        )
        return " ".join(parts)

    def causes(self, name: str) -> list[str]:
        """Say which plugins did not load and why, those first that name what is missing."""
        failed = [
            p
            for p in self.plugins
            if p.status == "incompatible" or (p.status != "active" and not p.names)
        ]
        failed.sort(key=lambda p: f"'{name}'" not in p.reason)
        told = [p for p in failed if p.status != "blocked"][:MAX_CAUSES] or failed[:MAX_CAUSES]
        sentences = [
            f"It may belong to {p.label}, which did not load [{p.status}]: {p.reason}"
            + f" Try pip install -U {p.distribution}." * (p.status == "error")
            for p in told
        ]
        others = [f"'{p.name}' [{p.status}]" for p in failed if p not in told]
        return [*sentences, *([f"Nor did {', '.join(others)}."] if others else [])]


class Catalog(Found[ExpertEntry]):
    """The experts of this environment."""

    __slots__ = ()
    noun = "expert"
    not_available = ExpertNotAvailable

    @property
    def experts(self) -> Mapping[str, ExpertEntry]:
        """The experts that can be built, by name."""
        return self.entries


class MethodCatalog(Found[MethodEntry]):
    """The methods of this environment."""

    __slots__ = ()
    noun = "method"
    not_available = MethodNotAvailable

    @property
    def methods(self) -> Mapping[str, MethodEntry]:
        """The methods that can be used, by name."""
        return self.entries


def mend_conflict(claimants: Iterable[E]) -> str:
    """Say how to choose between plugins that claim one name."""
    claimants = list(claimants)
    names = [claimant.plugin for claimant in claimants]
    if len(set(names)) < len(names):
        names = [claimant.distribution for claimant in claimants]
    return f"set TOVE_BLOCK_PLUGINS={names[-1]} (or ={names[0]}), or uninstall one of them"
