"""What discovery found: the experts by name, and what became of every plugin."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tove_plugins._errors import ExpertNotAvailable
from tove_plugins.specs import ExpertSpec

__all__ = ["Catalog", "ExpertEntry", "PluginRecord", "Status"]

Status = Literal["active", "blocked", "error", "incompatible", "conflict"]
MAX_CAUSES = 3  # plugins that did not load and whose reasons one message tells


@dataclass(frozen=True, slots=True)
class ExpertEntry:
    """An expert, with where it comes from.

    Args:
        spec: What the plugin says about it.
        distribution: The installed distribution that brought it.
        version: That distribution's version.
        plugin: The name of the plugin, its entry point's.
    """

    spec: ExpertSpec
    distribution: str
    version: str
    plugin: str

    @property
    def origin(self) -> str:
        """The plugin as messages name it."""
        return f"plugin '{self.plugin}' of {self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """One plugin and what became of it.

    Args:
        name: The name of its entry point.
        distribution: The distribution that declares it.
        version: That distribution's version.
        status: "active", "blocked" (by the environment), "error", "incompatible" (asks for a
            newer API) or "conflict" (an expert's name is taken by another plugin as well).
        reason: A sentence on the status; for an active plugin a remark, or empty.
        experts: The names of its experts that can be built.
        module: What the entry point refers to.
        seconds: How long it took to load.
    """

    name: str
    distribution: str
    version: str
    status: Status
    reason: str
    experts: tuple[str, ...]
    module: str = ""
    seconds: float = 0.0

    @property
    def label(self) -> str:
        """The plugin as messages name it."""
        return f"plugin '{self.name}' of {self.distribution} {self.version}"


@dataclass(frozen=True, slots=True)
class Catalog:
    """The experts and the plugins of this environment.

    Args:
        experts: Entries by the expert's name, in alphabetical order.
        plugins: One record per plugin, the built-in one first.
        contested: For names that several plugins claim, the entries of all claimants.
        notes: Remarks on the environment, a block list that names nothing, for example.
    """

    experts: Mapping[str, ExpertEntry]
    plugins: tuple[PluginRecord, ...]
    contested: Mapping[str, tuple[ExpertEntry, ...]]
    notes: tuple[str, ...] = ()

    def get(self, name: str) -> ExpertEntry:
        """Give the entry of an expert.

        Raises:
            ExpertNotAvailable: No plugin offers it, or more than one does.
        """
        if name in self.experts:
            return self.experts[name]
        if name in self.contested:
            raise ExpertNotAvailable(self._contested(name))
        raise ExpertNotAvailable(self.explain_unknown(name))

    def _contested(self, name: str) -> str:
        claimants = self.contested[name]
        return (
            f"Expert '{name}' is claimed by {' and by '.join(c.origin for c in claimants)}, and "
            f"none of them is preferred; {mend_conflict(claimants)}."
        )

    def explain_unknown(self, name: str, others: Iterable[str] = ()) -> str:
        """Say that no expert has this name, and which ones come close.

        Args:
            name: What was asked for.
            others: Names of experts that are known besides the catalog's.
        """
        import difflib  # for this sentence only

        parts = [f"No expert is called '{name}'."]
        known = sorted({*self.experts, *others})
        plain = name.lower().replace("-", "_")
        close = [plain] if plain in known else difflib.get_close_matches(name, known, cutoff=0.5)
        if close:
            parts.append(f"Did you mean {' or '.join(repr(match) for match in close)}?")
        else:
            parts.append(f"None of the {len(known)} that are known comes close.")
        parts += self._causes(name)
        parts.append(
            "If another package brings it, install that package; "
            "`python -m tove_plugins list` tells what is installed."
        )
        return " ".join(parts)

    def _causes(self, name: str) -> list[str]:
        """Say which plugins did not load and why, those first that name the expert."""
        failed = [
            p
            for p in self.plugins
            if p.status == "incompatible" or (p.status != "active" and not p.experts)
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


def mend_conflict(claimants: Iterable[ExpertEntry]) -> str:
    """Say how to choose between plugins that claim one name."""
    claimants = list(claimants)
    names = [claimant.plugin for claimant in claimants]
    if len(set(names)) < len(names):
        names = [claimant.distribution for claimant in claimants]
    return f"set TOVE_BLOCK_PLUGINS={names[-1]} (or ={names[0]}), or uninstall one of them"
