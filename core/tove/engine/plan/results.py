"""What a plan tells: of a config, of a training stage, of a part of its model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tove.engine.plan.shape_step import Memory

__all__ = ["CacheSize", "PartPlan", "Plan", "StagePlan"]


@dataclass(frozen=True, slots=True)
class PartPlan:
    """A part of a model.

    Attributes:
        name: of the part.
        parameters: in all.
        trainable: those that train.
        weight_bytes: of parameters and buffers.
        flops: of one image in the forward pass of a training step; None where not known.
        problem: why it could not be built without weights, or followed; what of its numbers is
            not known is missing then.
    """

    name: str
    parameters: int
    trainable: int
    weight_bytes: int
    flops: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """What one stage is going to take.

    Attributes:
        name: of the stage.
        model: the class that it trains.
        steps: of the optimiser.
        batch_size: in each process.
        images: that it draws, over all processes.
        vision_tokens: of one image that the language model reads.
        text_tokens: of a sample, as it was made up.
        parts: of the model.
        forward_flops: of one image.
        step_flops: of one image in a whole training step, backwards too.
        cached_step_flops: the same where tokens of frozen networks are read from a cache; None
            where the step looks at the image itself.
        memory: of a process; None where the step cannot be followed.
        memory_shard: of each of the processes where they share weights and states.
        seconds: of the whole training; None where no time is known.
        timed_by: what the time rests on.
        problem: why the step cannot be followed.
    """

    name: str
    model: str
    steps: int
    batch_size: int
    images: int
    vision_tokens: int
    text_tokens: int
    parts: Sequence[PartPlan]
    forward_flops: int | None
    step_flops: int | None
    cached_step_flops: int | None
    memory: Memory | None
    memory_shard: int | None
    seconds: float | None
    timed_by: str
    problem: str = ""

    @property
    def parameters(self) -> int:
        """Of all parts."""
        return sum(part.parameters for part in self.parts)

    @property
    def trainable(self) -> int:
        """Of all parts."""
        return sum(part.trainable for part in self.parts)


@dataclass(frozen=True, slots=True)
class CacheSize:
    """The tokens of all frozen networks in one codec.

    Attributes:
        codec: its notation.
        entry_bytes: of one image, by slot.
        total_bytes: of all images.
    """

    codec: str
    entry_bytes: Mapping[str, int]
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a config is going to take.

    Attributes:
        stages: that train.
        others: the names of the stages that do not, whose time is not in it.
        images: whose tokens are counted; several views of one count as many.
        caches: by codec.
        gpus: processes.
        gpu_hours: of all trainings; None where no time is known.
        price: of them; None where none was given.
    """

    stages: Sequence[StagePlan]
    others: Sequence[str]
    images: int
    caches: Sequence[CacheSize] = field(default=())
    gpus: int = 1
    gpu_hours: float | None = None
    price: float | None = None
