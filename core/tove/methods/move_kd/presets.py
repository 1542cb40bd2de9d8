"""MoVE-KD's readings: every place where paper and release differ, or where the release is at fault.

The paper's text leaves some of them open; `paper` is our reading of its equations. `released` is
what the public code computes (hey-cjj/MoVE-KD at c822da0). `fixed` is `paper` with the faults of
the release mended that the paper's formulas share or do not speak of.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from tove.config.validation import Range, check_arguments
from tove.errors import ConfigError, close_matches
from tove.methods.move_kd.attention_weights import TeacherReading, TokenReading
from tove.methods.move_kd.balance import BalanceReading

__all__ = ["PRESETS", "Switches", "read_switches"]


@dataclass(frozen=True, slots=True)
class Switches:
    """One value per reading; the defaults are the preset `paper`.

    Attributes:
        token_weight: how the class token's attention weighs tokens.
        teacher_weight: how the class token weighs the teachers but CLIP; "paper" and "released"
            compare it with adapted tokens, so student-side heads need "uniform".
        clip_share: CLIP's own weight among the teachers.
        kd_weight: of L_kd in the whole loss.
        balance: how the routers' use of experts is measured.
        balance_weight: of it in the whole loss.
        adapter: between teacher and student; "student_head" is the student's side.
        placement: of a LoRA pair, in the FFN's layers or around the FFN.
        routing: one expert a token, or all by their probability.
        router_gradient: what the router learns from task and distillation.
        init: of every B.
        mole_layers: "used" puts MoLE where the student's tokens depend on it, "all" everywhere.
        sam_layout: "released" scrambles a channels-first map of that teacher as the release does.
        text_only: "distilled" compares black images of samples that have none, "masked" does not.
        padding: "distilled" or "masked", of patches that are borders.
        geometry: "shared" is one crop or pad for all teachers, "released" each one's own.
        any_resolution: "views" takes each view as an image of its own; "refused" as the release.
        teacher_dropping: probability of dropping a teacher that is not the furthest; 0 is never.
    """

    token_weight: TokenReading = "paper"
    teacher_weight: TeacherReading = "paper"
    clip_share: Annotated[float, Range(0, 1)] = 0.8
    kd_weight: Annotated[float, Range(0)] = 0.5
    balance: BalanceReading = "pooled"
    balance_weight: Annotated[float, Range(0)] = 0.01
    adapter: Literal["channel_token", "resample", "student_head"] = "channel_token"
    placement: Literal["inside", "around"] = "inside"
    routing: Literal["top1", "dense"] = "top1"
    router_gradient: Literal["none", "gate_scale", "straight_through"] = "none"
    init: Literal["kaiming", "zero"] = "kaiming"
    mole_layers: Literal["used", "all"] = "used"
    sam_layout: Literal["correct", "released"] = "correct"
    text_only: Literal["masked", "distilled"] = "masked"
    padding: Literal["masked", "distilled"] = "distilled"
    geometry: Literal["shared", "released"] = "shared"
    any_resolution: Literal["views", "refused"] = "refused"
    teacher_dropping: Annotated[float, Range(0, 1)] = 0.0

    def __post_init__(self) -> None:
        if self.adapter == "student_head" and self.teacher_weight != "uniform":
            raise ConfigError(
                f"The switch teacher_weight={self.teacher_weight!r} compares the class token with "
                "tokens in CLIP's width, which student-side heads do not make; set "
                "teacher_weight='uniform', or an adapter on the teacher's side."
            )
        if self.any_resolution == "views" and self.adapter == "channel_token":
            raise ConfigError(
                "The switch any_resolution='views' meets teachers' tokens of several numbers, "
                "which adapter='channel_token' fixes; set adapter='resample' or 'student_head'."
            )

    def options(self) -> dict[str, Any]:
        """Return the switches as a plain dict, for configs, records and reports."""
        return asdict(self)


_PAPER = Switches()
PRESETS: Mapping[str, Switches] = {
    "paper": _PAPER,
    "released": replace(
        _PAPER,
        token_weight="released",
        teacher_weight="released",
        mole_layers="all",
        sam_layout="released",
        text_only="distilled",
        geometry="released",
    ),
    "fixed": replace(
        _PAPER,
        adapter="resample",
        router_gradient="gate_scale",
        init="zero",
        padding="masked",
        any_resolution="views",
    ),
}


def read_switches(preset: str = "paper", changes: Mapping[str, Any] | None = None) -> Switches:
    """Return a preset with some of its switches moved.

    Args:
        preset: a name of `PRESETS`.
        changes: switches and their values.

    Raises:
        ConfigError: a preset, switch or word that is unknown, or two switches that exclude
            each other.
    """
    if preset not in PRESETS:
        raise ConfigError(f"model.preset is {preset!r}. {close_matches(preset, PRESETS)}")
    check_arguments(Switches, changes or {}, "model.switches")
    return replace(PRESETS[preset], **(changes or {}))
