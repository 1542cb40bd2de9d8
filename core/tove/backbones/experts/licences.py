"""On what terms a run's experts may be used, composed: the strictest one holds for the hub.

An expert's terms are those of the weights that this run loads. Weights of the config's own
(`weights=`) have the spec's terms only if they are the spec's file, told by source or digest; the
config can state them: `licence=dict(name="MIT", commercial_use=True)` beside `weights`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich import box
from rich.table import Table

from tove.backbones.experts.registration import expert_spec
from tove.backbones.export_folder import teachers_of
from tove.errors import ConfigError, close_matches
from tove_plugins import Weights, find_weights, sha256_of

__all__ = [
    "Terms",
    "check_licences",
    "compose",
    "expert_terms",
    "licence_table",
    "terms_section",
]

Experts = Iterable[tuple[str, Mapping[str, Any]]]

NOT_KNOWN = "not known"
_STATED = ("name", "commercial_use", "trained_on")
_REVISION = re.compile(r"^(hub:[^/@]+/[^/@]+)@[^/]+")
_MEND = "licence=dict(name=..., commercial_use=True)"


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of one expert.

    Attributes:
        slot: in the config.
        expert: its name.
        licence: its name, or why there is none to name.
        commercial_use: whether it allows that; None where it is not known.
        trained_on: the data, in a few words.
    """

    slot: str
    expert: str
    licence: str
    commercial_use: bool | None
    trained_on: str = ""

    @property
    def label(self) -> str:
        """The expert as messages name it."""
        return f"{self.slot} ({self.expert})"


def expert_terms(slot: str, cfg: Mapping[str, Any]) -> Terms:
    """Give the terms of a config's expert.

    Raises:
        ConfigError: `licence` of the slot cannot be read; or an error of `tove_plugins`.
    """
    spec = expert_spec(cfg).spec
    stated = cfg.get("licence")
    if stated is not None:
        return _stated(slot, spec.name, stated)
    if cfg.get("tiny") and not cfg.get("weights"):
        return Terms(slot, spec.name, "none: random weights", True, "nothing")
    weights, own = spec.weights, cfg.get("weights")
    if own is not None:
        # What the plugin declares first: a resolved spec may name the folder in the hub's cache.
        declared = dict.fromkeys((expert_spec({"type": cfg["type"]}).spec.weights, weights))
        weights = next((w for w in declared if w and _is_the_spec_s(own, w)), None)
        if weights is None:
            return Terms(slot, spec.name, f"{NOT_KNOWN}: your own file", None, NOT_KNOWN)
    if weights is None:
        return Terms(slot, spec.name, "none: no weights", True, "nothing")
    if weights.licence.strip().lower() in ("", "unknown"):
        return Terms(slot, spec.name, f"{NOT_KNOWN}: its plugin names none", None, NOT_KNOWN)
    return Terms(slot, spec.name, weights.licence, weights.commercial_use, weights.trained_on)


def _stated(slot: str, expert: str, stated: Any) -> Terms:  # noqa: ANN401 - any config value
    """Read the terms that the config states."""
    where = f"model.experts.{slot}.licence"
    if isinstance(stated, str):
        return Terms(slot, expert, stated, None, NOT_KNOWN)
    if not isinstance(stated, Mapping) or not isinstance(stated.get("name"), str):
        raise ConfigError(f"{where} is {stated!r}; give a licence's name, or {_MEND}.")
    unknown = [key for key in stated if key not in _STATED]
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]} is unknown. {close_matches(unknown[0], _STATED)}")
    commercial, trained_on = stated.get("commercial_use"), stated.get("trained_on", NOT_KNOWN)
    if commercial is not None and not isinstance(commercial, bool):
        raise ConfigError(f"{where}.commercial_use is {commercial!r}; give True or False.")
    if not isinstance(trained_on, str):
        raise ConfigError(f"{where}.trained_on is {trained_on!r}; name the data in a few words.")
    return Terms(slot, expert, stated["name"], commercial, trained_on)


def _is_the_spec_s(own: str | Path, weights: Weights) -> bool:
    """Tell whether the config's weights are the spec's: the same source, or the same bytes.

    A spec that names no revision of a repository means any: a config that pins one keeps its terms.
    """
    if weights.source in (str(own), _REVISION.sub(r"\1", str(own))):
        return True
    return weights.sha256 is not None and sha256_of(Path(find_weights(own))) == weights.sha256


def check_licences(
    cfg: Config, experts: Experts, encoders: Iterable[Mapping[str, Any]] = ()
) -> list[Terms]:
    """Return the terms of a run's experts; `hub.allow_noncommercial` says which will do.

    Args:
        cfg: whose top-level `hub` is read.
        experts: (slot, config) of what runs, see `run_experts`.
        encoders: configs of what the experts stand beside; what taught one binds as they do.

    Raises:
        ConfigError: a setting of `hub` is wrong, or False and a licence does not allow commercial
            use, or is not known to.
    """
    policy = dict(cfg.get("hub", {}))
    allowed = policy.pop("allow_noncommercial", True)
    for key in policy:
        raise ConfigError(f"hub.{key} is unknown. {close_matches(key, ['allow_noncommercial'])}")
    if not isinstance(allowed, bool):
        raise ConfigError(f"hub.allow_noncommercial is {allowed!r}; give True or False.")
    terms = [expert_terms(slot, expert) for slot, expert in experts]
    if allowed:
        return terms
    sources = dict.fromkeys(str(encoder.get("pretrained", "")) for encoder in encoders)
    said = [_refusal(entry) for entry in terms if entry.commercial_use is not True]
    said += [
        _refusal_of_teacher(source, entry)
        for source in sources
        for entry in (Terms(**told) for told in teachers_of(source))
        if entry.commercial_use is not True
    ]
    if said:
        raise ConfigError(" ".join(said))
    return terms


def _refusal_of_teacher(source: str, terms: Terms) -> str:
    known = "does not allow commercial use" if terms.commercial_use is False else "may not allow it"
    return (
        f"The encoder {source} has learned from expert '{terms.expert}', whose weights are under "
        f"{terms.licence}, which {known}, and hub.allow_noncommercial is False; choose another "
        "encoder."
    )


def _refusal(terms: Terms) -> str:
    where = f"model.experts.{terms.slot}"
    if terms.commercial_use is False:
        return (
            f"{where} is expert '{terms.expert}', whose weights are under {terms.licence}, which "
            "does not allow commercial use, and hub.allow_noncommercial is False; choose another "
            f"expert or other weights, or detach it by model.detached=['{terms.slot}']."
        )
    return (
        f"{where} is expert '{terms.expert}', of whose weights it is not known whether their "
        f"licence ({terms.licence}) allows commercial use, and hub.allow_noncommercial is False; "
        f"if it does, state it: {where}.{_MEND}."
    )


def compose(terms: Iterable[Terms]) -> str:
    """Say in one line under which licences the hub stands, and what follows."""
    terms = list(terms)
    if not terms:
        return "hub: no expert runs"
    names = ", ".join(dict.fromkeys(entry.licence for entry in terms))
    forbidden = ", ".join(entry.label for entry in terms if entry.commercial_use is False)
    unknown = ", ".join(entry.label for entry in terms if entry.commercial_use is None)
    if forbidden:
        return f"hub: {names} → non-commercial because of {forbidden}"
    if unknown:
        return f"hub: {names} → commercial use not known because of {unknown}"
    return f"hub: {names} → commercial use allowed"


def terms_section(terms: Sequence[Terms]) -> list[str]:
    """Return the section of a model card that tells the terms, as lines of Markdown."""
    words = {True: "yes", False: "no", None: NOT_KNOWN}
    if not terms:
        return ["## Experts", "", "None: this model has learned from no expert."]
    return [
        "## Experts",
        "",
        "| slot | expert | licence | commercial use | trained on |",
        "|---|---|---|---|---|",
        *(
            f"| {t.slot} | {t.expert} | {t.licence} | {words[t.commercial_use]} | {t.trained_on} |"
            for t in terms
        ),
        "",
        f"Their terms bind whoever uses these weights, the strictest first: {compose(terms)}.",
    ]


def licence_table(terms: Iterable[Terms]) -> Table:
    """Lay the terms out for the console, their composition below."""
    terms = list(terms)
    table = Table(title="Licences of the experts", caption=compose(terms), box=box.SIMPLE)
    for column in ("slot", "expert", "licence", "commercial use", "trained on"):
        table.add_column(column, overflow="fold")
    words = {True: "yes", False: "no", None: NOT_KNOWN}
    for entry in terms:
        use = words[entry.commercial_use]
        table.add_row(entry.slot, entry.expert, entry.licence, use, entry.trained_on)
    return table
