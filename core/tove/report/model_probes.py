"""What the report asks the trained models themselves: gates on test images, answers, costs.

Shapes: I images, S x S pixels, N = h * w tokens, K slots, L layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tove.data.collate import tove_collate
from tove.engine.stages.context import StageContext
from tove.errors import ConfigError
from tove.evaluation.profile.parameters import count_parameters, median_ms
from tove.registry import DATASETS

__all__ = [
    "GateSample",
    "answers",
    "depth_layers",
    "evenly",
    "expert_costs",
    "relation_counts",
    "row_layers",
    "sample_gates",
    "split_samples",
    "view_of",
]

Array = NDArray[np.float64]
ImageSplit = Any  # tove's data sets and mmengine's ConcatDataset have no common type
_BATCH = 32
_DEPTH_FILE = "annotations/depth_test.npz"


@dataclass(frozen=True, slots=True)
class GateSample:
    """Gates on some test images.

    Attributes:
        image_ids: of the I images.
        images: uint8 [I, S, S, 3].
        gates: [I, h, w, K].
        slots: of the K columns.
    """

    image_ids: tuple[str, ...]
    images: NDArray[np.uint8]
    gates: Array
    slots: tuple[str, ...]


def evenly(count: int, wanted: int) -> list[int]:
    """Give up to `wanted` of `count` positions, at equal distances."""
    return [int(i * count / wanted) for i in range(wanted)] if count > wanted else [*range(count)]


def test_split(context: StageContext) -> ImageSplit:
    """Build the data set that the rows were measured on."""
    return DATASETS.build(context.loader("test_dataloader")["dataset"])


def split_samples(dataset: ImageSplit) -> list[dict[str, Any]]:
    """Give every sample's dict, no image loaded; `index` is its place in the data set."""
    return [{**dataset.get_data_info(i), "index": i} for i in range(len(dataset))]


def relation_counts(samples: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count the statements of each relation, and the conversations of each kind."""
    counts: dict[str, int] = {}
    for sample in samples:
        if sample.get("task") in ("statement", "conversation"):
            counts[sample["relation"]] = counts.get(sample["relation"], 0) + 1
    return counts


def load_items(dataset: ImageSplit, indices: Sequence[int]) -> list[dict[str, Any]]:
    """Load samples with their images; one whose image cannot be read is left out."""
    items = [dataset[index] for index in indices]
    return [item for item in items if not item["sample"].get("skipped")]


def batches(
    items: Sequence[dict[str, Any]], device: torch.device | str
) -> Iterator[dict[str, Any]]:
    """Yield batches as a loader does, their tensors on a device."""
    for start in range(0, len(items), _BATCH):
        batch = tove_collate(items[start : start + _BATCH])
        yield {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def view_of(item: Mapping[str, Any]) -> Tensor | None:
    """Return one view [3, S, S] of an item's first image; None of one without images."""
    if "image" in item:
        image: Tensor = item["image"]
        return image
    return item["images"][0] if len(item["images"]) else None


@torch.no_grad()
def sample_gates(
    context: StageContext,
    model: Any,  # noqa: ANN401 - a method's
    dataset: ImageSplit,
    samples: Sequence[Mapping[str, Any]],
    num_images: int,
) -> GateSample:
    """Run the gate over distinct test images, spread evenly over the split.

    Raises:
        ConfigError: the model has no gate, or no image can be read.
    """
    if getattr(model, "gate", None) is None or not model.hub.slots:
        raise ConfigError("the model was trained without experts, so it has no gate")
    shown = [sample for sample in reversed(samples) if sample.get("image_paths") != []]
    first = {sample["image_id"]: sample["index"] for sample in shown}
    distinct = sorted(first.values())
    chosen = [distinct[position] for position in evenly(len(distinct), num_images)]
    items = load_items(dataset, chosen)
    if not items:
        raise ConfigError("no image of the test split can be read")
    model.eval()
    ids = [item["sample"]["image_id"] for item in items]
    images_ICHW = torch.stack([view for item in items if (view := view_of(item)) is not None])
    gates = []
    for start in range(0, len(items), _BATCH):
        part = slice(start, start + _BATCH)
        gate_BNK = model.gate_weights(images_ICHW[part].to(context.device), ids[part])
        gates.append(gate_BNK.unflatten(1, tuple(model.encoder.grid)).double().cpu())
    return GateSample(
        tuple(ids),
        images_ICHW.permute(0, 2, 3, 1).numpy(),
        torch.cat(gates).numpy(),
        tuple(model.hub.slots),
    )


def row_layers(sample: GateSample) -> Array:
    """Average over each row of tokens, the lowest first: [I, L = h, K]."""
    return sample.gates.mean(axis=2)[:, ::-1]


def depth_layers(sample: GateSample, data_root: Path, num_layers: int = 6) -> Array | None:
    """Average over layers of depth, quantiles of all tokens shown, the nearest first: [I, L, K].

    Args:
        sample: the gates.
        data_root: has, or has not, `annotations/depth_test.npz`: by the stem of an image's name
            its log depth [H, W] over the shared view.
        num_layers: L.

    Returns:
        nan where an image has no token in a layer; None where the depth of an image is unknown.
    """
    path = data_root / _DEPTH_FILE
    stems = [Path(image_id).stem for image_id in sample.image_ids]
    if not path.is_file():
        return None
    with np.load(path) as stored:
        if any(stem not in stored for stem in stems):
            return None
        maps = [torch.from_numpy(stored[stem].astype(np.float64)) for stem in stems]
    grid = (sample.gates.shape[1], sample.gates.shape[2])
    depth_Ihw = torch.stack([F.adaptive_avg_pool2d(m[None], grid)[0] for m in maps]).numpy()
    edges = np.quantile(depth_Ihw, np.linspace(0, 1, num_layers + 1)[1:-1])
    layer_Ihw = np.digitize(depth_Ihw, edges)
    out = np.full((len(stems), num_layers, len(sample.slots)), np.nan)
    for index, (layer_hw, gate_hwK) in enumerate(zip(layer_Ihw, sample.gates, strict=True)):
        for layer in np.unique(layer_hw):
            out[index, layer] = gate_hwK[layer_hw == layer].mean(axis=0)
    return out


@torch.no_grad()
def answers(
    context: StageContext,
    model: Any,  # noqa: ANN401 - a method's
    items: Sequence[dict[str, Any]],
) -> list[str]:
    """Give a model's answer to each item: a text, or the candidate it finds likelier."""
    model.eval()
    texts = []
    for batch in batches(items, context.device):
        for sample in model(**batch, mode="predict"):
            prediction = sample["prediction"]
            is_choice = sample["task"] == "statement"
            texts.append(sample["candidates"][prediction] if is_choice else str(prediction))
    return texts


@torch.no_grad()
def expert_costs(context: StageContext, model: Any) -> dict[str, tuple[int, float]]:  # noqa: ANN401
    """Measure, per attached expert, its parameters and the milliseconds it takes for one image."""
    model.eval()
    size = context.image_size
    image_BCHW = torch.rand(1, 3, size, size, device=context.device)
    return {
        slot: (
            count_parameters(model.hub.experts[slot])[1],
            median_ms(partial(model.hub.run, slot, image_BCHW), context.device, 9, 2),
        )
        for slot in model.hub.attached
    }
