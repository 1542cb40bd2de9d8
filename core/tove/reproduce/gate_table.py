"""What the gates of a claim's arms do as a table: how evenly, to whom, where they give weight."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tove.report.row_roles import metric_label

__all__ = ["GATE_NOTE", "gate_table", "rank_correlation"]

GATE_NOTE = (
    "Entropy is 1 where all experts weigh alike in every token and 0 where one has it all. An "
    "expert's cell is its mean weight, in brackets that on tokens which objects fill at least half "
    "of and that on all others. Agreement is Spearman's rank correlation, over the experts, of the "
    "mean weight with what an expert adds (Shapley's value on the validation split). All are means "
    "over seeds."
)

Rows = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""By arm, by seed."""


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation, -1 to 1; nan where all of one are equal.

    Equal values have the mean of their ranks.
    """
    ranks = [_ranks(np.asarray(values)) for values in (first, second)]
    spread = [own - own.mean() for own in ranks]
    scale = float(np.sqrt((spread[0] ** 2).sum() * (spread[1] ** 2).sum()))
    return float((spread[0] * spread[1]).sum() / scale) if scale else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks from 0 on: how many are smaller, and half of the others that are equal."""
    smaller = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1) - 1
    return smaller + equal / 2


def gate_table(rows: Rows, metric: str) -> list[list[str]]:
    """Return the heads and the cells of each arm that has a gate; empty where none has.

    Args:
        rows: of a claim's records.
        metric: that agreement goes by.
    """
    by_arm = {a: [row for row in own.values() if "gate" in row] for a, own in rows.items()}
    gated = {arm: own for arm, own in by_arm.items() if own}
    if not gated:
        return []
    slots = list(dict.fromkeys(s for own in gated.values() for s in own[0]["gate"]["share"]))
    heads = ["arm", "entropy", *slots, f"agreement ({metric_label(metric)})"]
    lines = [
        [
            arm,
            _mean([row["gate"]["entropy"] for row in own]),
            *(_share(own, slot) for slot in slots),
            _agreement(own, metric),
        ]
        for arm, own in gated.items()
    ]
    return [heads, *lines]


def _share(rows: Sequence[Mapping[str, Any]], slot: str) -> str:
    """Write an expert's mean weight, and that on objects against elsewhere."""
    shares = [row["gate"]["share"][slot] for row in rows if slot in row["gate"]["share"]]
    looks = [row["on_objects"] for row in rows if "on_objects" in row]
    if not (shares and looks):
        return _mean(shares)
    places = [_mean([told[where][slot] for told in looks]) for where in ("objects", "elsewhere")]
    return f"{_mean(shares)} ({' / '.join(places)})"


def _agreement(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    found = []
    for row in rows:
        adds = row.get("contribution", {}).get("shapley", {}).get(metric)
        if adds:
            share = row["gate"]["share"]
            found.append(rank_correlation([share[slot] for slot in adds], [*adds.values()]))
    return _mean(found, sign="+")


def _mean(values: Sequence[float], sign: str = "") -> str:
    return f"{np.mean(values):{sign}.2f}" if values else ""
