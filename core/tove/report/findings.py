"""The headline and the findings, computed from the rows.

    gain kept by the merged encoder = (merged - baseline) / (tove - baseline)

A method that does not help is said not to help; a difference within the intervals is said to be
not distinguishable, whatever its sign. Two models that each give one answer to everything, or get
nothing right, are not compared; nor is a removal of experts called free where there was no gain.
"""

from collections.abc import Sequence

from tove.report.row_roles import (
    Row,
    Score,
    Standing,
    compare,
    format_score,
    is_share,
    metric_label,
    paired_gain,
    score_of,
)

__all__ = ["findings", "headline"]

_COST_MARGIN = 1.25  # timings of one image on a busy machine differ by this much


def headline(standing: Standing, metric: str) -> str:
    """Say in one sentence what the run showed."""
    tove = score_of(standing.method, metric)
    (rival, name), method = _rival(standing, metric), standing.name
    if tove is None:
        return "This run has no row of a method yet, so there is nothing to compare."
    if rival is None:
        but = f", but {tove.empty}" if tove.empty else ""
        return (
            f"{method} reaches {tove} {metric_label(metric)}{but}; there is no baseline to hold it "
            "to."
        )
    pair = f"{tove} {metric_label(metric)} against {rival} for {name}"
    if tove.empty and rival.empty:
        return (
            f"This run tells nothing of the experts: {method} {tove.empty}, and {name} "
            f"{rival.empty}: {pair}."
        )
    verdict = compare(tove, rival)
    if verdict == "below":
        return f"{method} does not help here: {pair}."
    if verdict == "alike":
        return (
            f"No measurable help from the experts here in {metric_label(metric)}: {method} {pair}, "
            "not distinguishable."
        )
    if verdict == "unknown":
        return f"{method} {pair}, without intervals to judge the difference by."
    return f"The experts help: {method} {pair}{_merged_clause(standing, metric, tove, rival)}."


def _rival(standing: Standing, metric: str) -> tuple[Score | None, str]:
    """Give what the method is held against: the baseline, else plain CLIP."""
    baseline = score_of(standing.baseline, metric)
    if baseline is not None:
        return baseline, "its parameter-matched baseline"
    return score_of(standing.plain, metric), "plain CLIP"


def _merged_clause(standing: Standing, metric: str, tove: Score, rival: Score) -> str:
    merged = score_of(standing.merged, metric)
    if merged is None or standing.merged is None:
        return ""
    kept = _gain_kept(merged, tove, rival)
    what = "keeps none of the gain" if kept <= 0 else f"keeps {100 * kept:.0f} % of the gain"
    return f"; the merged encoder {what}{_cost_clause(standing.merged, standing.plain)}"


def _gain_kept(merged: Score, tove: Score, rival: Score) -> float:
    return (merged.value - rival.value) / (tove.value - rival.value)


def _cost_clause(merged: Row, plain: Row | None) -> str:
    if plain is None:
        return ""
    if merged["forward_ms"] <= _COST_MARGIN * plain["forward_ms"]:
        return " at the plain encoder's cost"
    return f" at {merged['forward_ms'] / plain['forward_ms']:.1f} times the plain encoder's time"


def findings(standing: Standing, metrics: Sequence[str]) -> list[str]:
    """Give the sentences under the headline, for each of the metrics and for the costs."""
    sentences = [sentence for metric in metrics for sentence in _comparisons(standing, metric)]
    sentences += [sentence for metric in metrics for sentence in _detachment(standing, metric)]
    return sentences + _costs(standing)


def _comparisons(standing: Standing, metric: str) -> list[str]:
    rival, rival_name = _rival(standing, metric)
    tove, merged = score_of(standing.method, metric), score_of(standing.merged, metric)
    sentences = _emptiness(standing, metric)
    if tove is None or rival is None:
        return sentences
    if not (tove.empty and rival.empty):
        sentences.append(_comparison(standing.name, tove, rival_name, rival))
    if merged is not None and not (merged.empty and rival.empty):
        remark = _gain_remark(merged, tove, rival, standing.name)
        sentences.append(_comparison("the merged encoder", merged, rival_name, rival) + remark)
    control = score_of(standing.control, metric)
    if merged is not None and control is not None and not (merged.empty and control.empty):
        other = "the baseline merged on the same images"
        sentences.append(_comparison("the merged encoder", merged, other, control))
    return sentences


def _emptiness(standing: Standing, metric: str) -> list[str]:
    """Name the rows whose scores tell nothing, by the reason."""
    rows = (standing.plain, standing.baseline, standing.method, *standing.detached)
    reasons: dict[str, list[str]] = {}
    for row in (*rows, standing.merged, standing.control):
        score = score_of(row, metric)
        if score is not None and score.empty:
            reasons.setdefault(score.empty, []).append(score.row)
    label = metric_label(metric)
    return [
        f"{label[:1].upper()}{label[1:]}: each of {', '.join(names)} {why}, so this score tells "
        "nothing of what they see."
        for why, names in reasons.items()
    ]


def _comparison(name: str, ours: Score, other_name: str, other: Score) -> str:
    """Compare two scores in one sentence, each with its interval."""
    start = metric_label(ours.metric)
    start = f"{start[:1].upper()}{start[1:]}: {name}"
    numbers = f"{_with_interval(ours)} against {_with_interval(other)}, {_gap(ours, other)}"
    verdict = compare(ours, other)
    if verdict == "unknown":
        return f"{start} and {other_name}: {numbers}; there are no intervals to judge this by."
    paired = paired_gain(ours, other)
    if verdict == "alike":
        why = "that interval holds zero" if paired else "the 95 % intervals overlap"
        return f"{start} and {other_name} are not distinguishable: {numbers}; {why}."
    why = "that interval excludes zero" if paired else "the 95 % intervals do not overlap"
    return f"{start} lies {verdict} {other_name}: {numbers}; {why}."


def _with_interval(score: Score) -> str:
    return f"{score} ({score.interval})" if score.interval else str(score)


def _gap(ours: Score, other: Score) -> str:
    """Write the difference, with the 95 % interval of the paired one where it is known."""
    difference, paired = ours.value - other.value, paired_gain(ours, other)
    if is_share(ours.metric):
        ends = f" ({100 * paired[0]:+.1f} to {100 * paired[1]:+.1f})" if paired else ""
        return f"{100 * difference:+.1f} points{ends}"
    ends = f" ({paired[0]:+.3f} to {paired[1]:+.3f})" if paired else ""
    return f"{difference:+.3f}{ends}"


def _gain_remark(merged: Score, tove: Score, rival: Score, name: str) -> str:
    verdict = compare(tove, rival)
    if verdict == "above":
        kept = _gain_kept(merged, tove, rival)
        share = "none" if kept <= 0 else f"{100 * kept:.0f} %"
        return f" It keeps {share} of {name}'s gain."
    if verdict == "below" or tove.value <= rival.value:
        return f" {name} had no gain for it to keep."
    return " A share of a gain that is not distinguishable from zero is not given."


def _detachment(standing: Standing, metric: str) -> list[str]:
    """Say how many experts can go, and what is left when all are gone."""
    tove = score_of(standing.method, metric)
    scores = [score_of(row, metric) for row in standing.detached]
    known = [score for score in scores if score is not None]
    if tove is None or not known or len(known) < len(scores):
        return []
    if tove.empty:
        return [
            f"What the removal of experts costs in {metric_label(metric)} cannot be told: "
            f"{standing.name} {tove.empty} with all of them."
        ]
    free = 0
    for score in known:
        if compare(score, tove) not in ("alike", "above"):
            break
        free += 1
    total = len(standing.method["experts"]) if standing.method else len(known)
    sentence = _removable(free, total, metric_label(metric))
    rival, name = _rival(standing, metric)
    if free and rival is not None and compare(tove, rival) in ("alike", "below"):
        sentence += f" They had no measurable gain over {name} to lose."
    if standing.detached[-1]["experts"] or rival is None:
        return [sentence]
    last = known[-1]
    place = {
        "above": f"still above {name}",
        "below": f"below {name}",
        "alike": f"not distinguishable from {name}",
        "unknown": f"against {format_score(metric, rival.value)} for {name}",
    }[compare(last, rival)]
    return [sentence, f"With every expert removed it is {last}, {place}."]


def _removable(free: int, total: int, score: str) -> str:
    if free == total:
        return (
            f"By {score} all {total} experts can be removed, without re-tuning: it is never "
            "measurably below that of all of them."
        )
    if free:
        return (
            f"By {score} experts can be removed, without re-tuning, until {free} of {total} are "
            f"gone before it is measurably below that of all {total}."
        )
    return f"By {score} already the first removal, without re-tuning, costs a measurable part."


def _costs(standing: Standing) -> list[str]:
    parts = [
        f"{name} {row['forward_ms']:.1f} ms, {row['steps']:,} steps on "
        f"{row['training_images']:,} distinct images"
        for name, row in (
            ("plain CLIP", standing.plain),
            ("the baseline", standing.baseline),
            (standing.name, standing.method),
            ("merged", standing.merged),
            ("the baseline, merged", standing.control),
        )
        if row is not None
    ]
    return [f"Vision side for one image, and training: {'; '.join(parts)}."] if parts else []
