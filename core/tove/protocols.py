"""What the parts of the engine are to each other: samples, rows, methods, stages.

A method's model is trained, measured, saved and loaded through `Method` alone. Whoever derives from
`tove.methods.VisionLanguageModel` has all of it; the engine below never imports a method.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Generator, Tensor, nn

__all__ = [
    "CostPart",
    "LanguageModel",
    "Method",
    "OnOtherExperts",
    "Role",
    "Row",
    "Sample",
    "Stage",
    "VisionTokens",
]

Row = dict[str, Any]
"""What one configuration scored and cost, see `tove.engine.rows`."""
Sample = dict[str, Any]
"""One item of a data set: image_id, task, and what is asked: prompt, target, candidates, or
conversations; ..."""
VisionTokens = Tensor | Sequence[Tensor]
"""[B, N, D], an image for each sample; or the tokens [n_i, D] of each image, in the order of the
samples and of the images within each, [0, N, D] where there is none."""
Role = Literal["plain", "baseline", "method", "variant", "detached", "merged", "control"]
"""The part that a row plays in a table: see `tove.engine.rows`."""
OnOtherExperts = Literal["keep", "carry over", "begin again", "refuse"]
"""What becomes of a finished or interrupted training when a config's experts change."""


@dataclass(frozen=True, slots=True)
class CostPart:
    """A part of a model whose cost is told by itself.

    Attributes:
        modules: what it computes with.
        step: runs it on one image; None counts parameters only.
    """

    modules: Sequence[nn.Module]
    step: Callable[[], Any] | None = None


class LanguageModel(Protocol):
    """What reads the vision tokens: an `nn.Module` registered in LANGUAGE_MODELS.

    It takes of a sample what it reads: `prompt`, `target` and `candidates`, or `conversations`.

    Attributes:
        width: D of the tokens that it reads.
    """

    width: int

    def loss(self, vision: VisionTokens, samples: Sequence[Sample]) -> Tensor:
        """Return the loss of what the samples say is right, a scalar."""
        ...

    def rank(self, vision: VisionTokens, samples: Sequence[Sample]) -> list[list[float]]:
        """Return the log-likelihoods of each sample's candidates."""
        ...

    def generate(
        self,
        vision: VisionTokens,
        samples: Sequence[Sample],
        **options: Any,  # noqa: ANN401
    ) -> list[str]:
        """Return a text for each sample."""
        ...

    def room(self, num_image_tokens: int) -> int:
        """Return how many text tokens there are positions for beside a sample's images."""
        ...

    def num_tokens(self, sample: Sample) -> int:
        """Return the text tokens of a sample, its longest candidate among them."""
        ...


class Method(Protocol):
    """A model that a stage trains: an `nn.Module` registered in MODELS.

    Attributes:
        role: of the rows that are measured on it.
        on_other_experts: what becomes of its training when the config's experts change.
        detachable: whether experts can be taken away from it without training again.
        teachers_only: whether its experts serve training alone and no answer needs them.
        slot_parts: paths of its module dicts that are keyed by expert slot; parameters in them
            come and go with their slot.
        frozen: fingerprints of frozen parts by name, which a checkpoint notes.
        leaves_unused: whether a step may leave trained parameters out of its graph.
        cache: frozen tokens kept in memory, or None.
        shared_generator: given by a training while it lasts, seeded before each step: what all
            ranks have to draw alike is drawn from it.
    """

    role: ClassVar[Role]
    on_other_experts: ClassVar[OnOtherExperts]
    detachable: ClassVar[bool]
    teachers_only: ClassVar[bool]
    slot_parts: tuple[str, ...]
    frozen: Mapping[str, str]
    cache: Any
    shared_generator: Generator | None

    @classmethod
    def experts_of(cls, settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """Return the experts that a model of these settings runs, by slot; nothing is built."""
        ...

    @classmethod
    def with_slots(cls, settings: Mapping[str, Any], slots: Sequence[str]) -> dict[str, Any]:
        """Return the settings of the same model with no other experts than these slots."""
        ...

    @property
    def leaves_unused(self) -> bool:
        """Whether a step may leave trained parameters out of its graph."""
        ...

    def forward(
        self,
        images: Tensor,
        data_samples: list[Sample] | None,
        mode: str,
        content: Tensor | None = None,
        owner: Tensor | None = None,
    ) -> dict[str, Tensor] | list[Sample] | Tensor:
        """Return losses ("loss"), samples with `prediction` ("predict") or tokens ("tensor")."""
        ...

    def check_view(self, kind: str) -> None:
        """Refuse training data whose images are shown in a way that the method cannot train on."""
        ...

    def running(self) -> tuple[str, ...]:
        """Return the slots whose experts run when the model answers."""
        ...

    def plain_encoder(self) -> nn.Module:
        """Return the encoder that a merge starts its student from."""
        ...

    def deployed_encoder(self) -> nn.Module:
        """Return an encoder that takes the weights of `deployed`, and writes them by `export`."""
        ...

    def provenance(self) -> dict[str, dict[str, Any]]:
        """Return where each expert that runs comes from, by slot."""
        ...

    def cost_parts(self, image_BCHW: Tensor) -> dict[str, CostPart]:
        """Return what one image costs, by part; an expert's part is called `experts.SLOT`."""
        ...

    def load_trainable(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load what a checkpoint holds: strictly, but for what belongs to an expert slot."""
        ...

    def deployed(self) -> dict[str, Tensor] | None:
        """Return the state of the plain CLIP model that this one leaves behind, or None.

        The names are those of `PlainCLIP`, its encoder's weights among them.
        """
        ...


class Stage(Protocol):
    """One step of a run.

    Registered in STAGES and built from an entry of `cfg.stages`, `name` always among its arguments.
    A stage that takes another one's model says so by its argument `source`.

    Attributes:
        name: also the name of its folder.
        depends_on: the top-level settings that its outcome depends on.
        repeats: run on every call, finished before or not (a report, for example).

    A stage may also have
    - `overlays_model = True`: its entry's `model` lies over the model's settings;
    - `check(context)`, called before any stage runs, that raises ConfigError for settings it could
      not run with;
    - `rehearse(context)`, called after all checks, the last stage's first, that builds what the
      stage is going to train and by what, and trains nothing;
    - `planned(context)`, of a stage that trains, that returns a `PlannedTraining`: what and how
      long, for `mim run tove_plugins plan`;
    - `with_other_experts(context)`, asked when a run is resumed with other experts than the stage
      began with, that returns an `OnOtherExperts`; "begin again" without it.
    """

    name: str
    depends_on: tuple[str, ...]
    repeats: bool

    def run(self, context: Any) -> list[Row]:  # noqa: ANN401 - a `StageContext`
        """Do the stage's work in `context.folder(self.name)` and return its rows."""
        ...
