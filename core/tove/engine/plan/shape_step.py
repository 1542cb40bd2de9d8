"""A training step of shapes alone: what it computes, and the memory that it needs.

Every operator of one step of the config's batch runs on the meta device, forwards and backwards. In
flight are counted

    operations    of the forward pass by part, of the whole step (what checkpointing computes again
                  included, the optimiser not)
    memory        weights + states of the optimiser + the most bytes of tensors that the step makes
                  and that are alive at one time, gradients among them

Kernels' workspace, what the allocator cannot use between blocks, and the buffers in which processes
exchange gradients come on top. Samples are made up: one whole view of an image and some words.

Shapes: B samples, S side of a view.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from tove.backbones.experts.hub import ExpertHub
from tove.backbones.shapes import running_shapes, shapes_alone
from tove.engine.optimizer import Schedule, TrainableOnlyConstructor, optim_wrapper_cfg
from tove.engine.plan.part_flops import parts_flops
from tove.evaluation.profile.flops import flop_counter
from tove.evaluation.profile.memory import LiveTensors, module_bytes
from tove.protocols import Sample
from tove_plugins import ExpertSpec

__all__ = [
    "META",
    "Memory",
    "ShapeStep",
    "follow_step",
    "made_up_batch",
    "place_experts",
    "step_of",
]

META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that one process needs.

    Attributes:
        weights: parameters and buffers, frozen ones too.
        gradients: of what trains.
        optimizer: its states.
        activations: what the step makes at its peak beyond the gradients.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def shard(self, processes: int) -> int:
        """Return what each of several processes needs that share all but the activations."""
        held = self.weights + self.gradients + self.optimizer
        return -(-held // processes) + self.activations


@dataclass(frozen=True, slots=True)
class ShapeStep:
    """What one step takes.

    Attributes:
        forward: operations of the forward pass by part, see `part_flops`.
        flops: of the whole step.
        memory: of a process.
    """

    forward: Mapping[str, int]
    flops: int
    memory: Memory


class _StandIn(nn.Module):
    """Gives tokens of the right shape, in place of an expert that cannot be built or run here.

    Args:
        spec: of the expert.
        expert: that was built, whose parameters count; None where it could not be.
    """

    def __init__(self, spec: ExpertSpec, expert: nn.Module | None) -> None:
        super().__init__()
        self.tokens, self.expert = spec.tokens, expert

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return tokens [B, M, D]."""
        return images_BCHW.new_empty(len(images_BCHW), self.tokens.num_tokens, self.tokens.width)


def place_experts(model: nn.Module, side: int) -> dict[str, str]:
    """Build the experts of a model of shapes; return what could not be done of one, by slot.

    Args:
        model: has any number of hubs.
        side: S.
    """
    problems: dict[str, str] = {}
    images = torch.empty(1, 3, side, side, device=META)
    for hub in (module for module in model.modules() if isinstance(module, ExpertHub)):
        for slot, spec in hub.specs.items():
            built: nn.Module | None = None
            try:  # a stranger's network may fail in any way
                built = _built(hub, slot)
                with running_shapes():
                    hub.run(slot, images)
            except Exception as error:
                what = "be followed without numbers" if built else "be built without weights"
                problems[slot] = f"cannot {what}: {' '.join(str(error).split())}"
                hub.experts[slot].place(_StandIn(spec, built))  # type: ignore[operator]
    return problems


def _built(hub: ExpertHub, slot: str) -> nn.Module | None:
    """Build an expert as shapes, or on the CPU where its code looks at numbers meanwhile."""
    try:
        with shapes_alone():
            return hub.network(slot, META).expert
    except Exception:
        with shapes_alone("cpu"):
            return hub.network(slot, META).expert


def made_up_batch(
    batch_size: int, side: int, num_words: int, device: torch.device
) -> tuple[Tensor, list[Sample]]:
    """Return views [B, 3, S, S], uint8, and a sample with text for each.

    Args:
        batch_size: B.
        side: S.
        num_words: of the prompt and the target together.
        device: of the views.
    """
    half = num_words // 2
    text = {"prompt": "a " * half, "target": ("a " * (num_words - half)).strip()}
    samples = [
        {"image_id": str(number), "task": "caption", "relation": "", **text}
        for number in range(batch_size)
    ]
    shape = batch_size, 3, side, side
    return torch.zeros(shape, dtype=torch.uint8, device=device), samples


def step_of(
    model: BaseModel, images: Tensor, samples: list[Sample]
) -> tuple[Callable[[], Tensor], Callable[[Tensor], None]]:
    """Return the forward and the backward pass of a training step in which every expert runs."""
    model.train()
    if hasattr(model, "dropped"):
        model.dropped = frozenset

    def forward() -> Tensor:
        losses: Any = model(images, samples, mode="loss")
        return model.parse_losses(losses)[0]

    return forward, lambda loss: loss.backward()


def follow_step(
    model: BaseModel,
    images: Tensor,
    samples: list[Sample],
    schedule: Schedule,
    own: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> ShapeStep:
    """Run a step of shapes and say what it takes.

    Args:
        model: on the meta device.
        images: see `made_up_batch`.
        samples: see `made_up_batch`.
        schedule: of the training.
        own: the config's `optim_wrapper`.
        dtype: of mixed precision, which all weights then have; None leaves them as they are.
    """
    weights, sizes = module_bytes([model]), {p: p.element_size() for p in model.parameters()}
    optimizer = _optimizer_bytes(model, schedule, own)
    if dtype is not None:
        model.to(dtype)
    forward, backward = step_of(model, images, samples)
    with running_shapes():
        with flop_counter() as counter:
            with parts_flops(model, counter) as parts:
                loss = forward()
            backward(loss)
        del loss
        model.zero_grad()
        with LiveTensors() as tensors:  # by itself: the counter keeps tensors alive
            backward(forward())
    gradients = [p for p in model.parameters() if p.grad is not None]
    activations = tensors.peak - sum(p.grad.numel() * p.grad.element_size() for p in gradients)
    memory = Memory(
        weights=weights,
        gradients=sum(p.numel() * sizes[p] for p in gradients),
        optimizer=optimizer,
        activations=max(0, activations),
    )
    model.zero_grad()
    return ShapeStep(parts, counter.get_total_flops(), memory)


def _optimizer_bytes(model: nn.Module, schedule: Schedule, own: Mapping[str, Any] | None) -> int:
    """Let the config's optimiser take a step of shapes, and count what it keeps."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    cfg = optim_wrapper_cfg(schedule, own={**(own or {}), "type": "OptimWrapper"})
    cfg.pop("constructor")
    cfg["optimizer"].pop("fused", None)  # which the meta device does not have
    wrapper: Any = TrainableOnlyConstructor(cfg)(model)
    with running_shapes():
        wrapper.optimizer.step()
    model.zero_grad()
    states = wrapper.optimizer.state.values()
    kept = [value for state in states for value in state.values() if torch.is_tensor(value)]
    return sum(value.numel() * value.element_size() for value in kept if value.is_meta)
