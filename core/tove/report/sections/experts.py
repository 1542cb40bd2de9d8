"""The experts of a run: what they are, where they come from, what they cost."""

from collections.abc import Mapping
from typing import Any

from tove.backbones.experts.registration import expert_spec
from tove.report.model_probes import expert_costs
from tove.report.page import Section, Table, section
from tove.report.report_data import MENDABLE, Material

__all__ = ["expert_section"]


@section(80)
def expert_section(material: Material) -> Section:
    """List the experts: what they are, where they come from, what they cost."""
    title = "Experts"
    if not material.colours:
        return Section("experts", title, ["The config has no experts."])
    costs = expert_costs(material.context, material.model) if material.model is not None else {}
    rows, problems = [], []
    for slot in material.colours:
        try:
            rows.append(_expert_cells(slot, material.context.cfg.model.experts[slot], costs))
        except MENDABLE as error:
            problems.append(f"{slot}: {error}")
    header = ["slot", "expert", "task", "tokens", "package", "licence", "trained on"]
    header += ["commercial use", "parameters", "ms"]
    note = "Frozen throughout. Milliseconds are the median for one image on this run's machine."
    return Section("experts", title, [note, *problems], Table(header, rows, (8, 9)))


def _expert_cells(
    slot: str, cfg: Mapping[str, Any], costs: Mapping[str, tuple[int, float]]
) -> list[str]:
    entry = expert_spec(cfg)
    spec, weights = entry.spec, None if cfg.get("tiny") else entry.spec.weights
    licence, trained_on, commercial = "none", "random weights", "-"
    if weights is not None:
        licence, trained_on = weights.licence, weights.trained_on
        commercial = "yes" if weights.commercial_use else "no"
    return [
        slot,
        spec.name,
        spec.task,
        f"{spec.tokens.grid[0]} by {spec.tokens.grid[1]}, width {spec.tokens.width}",
        f"{entry.distribution} {entry.version}",
        licence,
        trained_on,
        commercial,
        *((f"{costs[slot][0]:,}", f"{costs[slot][1]:.2f}") if slot in costs else ("-", "-")),
    ]
