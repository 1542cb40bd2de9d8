"""Where a gate looks in the tiny world, in which it is known what fills each token.

    on_objects.json     {objects: {slot: mean weight}, elsewhere: {slot: mean weight},
                         object_share: of all tokens}

A token is an object's where objects fill at least half of it; ground and sky are elsewhere. The
scenes are drawn anew from the run's own seed. In a config, with
custom_imports=dict(imports=["tove.reproduce.gate_on_objects"]).

Shapes: I images, C x C cells of truth, N = h x w tokens, K slots.
"""

import json
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from torch import Tensor
from torch.nn import functional as F

from tove.atomic_io import write_text
from tove.data.tiny_world.rendered import make_pool
from tove.data.tiny_world.scene import MAX_OBJECTS
from tove.data.tiny_world.write import stream_of, world_of
from tove.engine.stages.context import StageContext
from tove.engine.stages.source import check_source
from tove.errors import ConfigError
from tove.methods.tove.gate_ranking import gates_by_image
from tove.protocols import Row
from tove.registry import STAGES

__all__ = ["ON_OBJECTS", "GateOnObjectsStage", "object_tokens", "weights_on_objects"]

ON_OBJECTS = "on_objects.json"


@STAGES.register_module()
class GateOnObjectsStage:
    """Tells what each expert weighs on objects, and elsewhere, over the test scenes.

    Args:
        name: the stage's name.
        source: the stage whose model's gate is looked at.
    """

    depends_on: tuple[str, ...] = ("model", "scenes", "seed", "test_dataloader")
    repeats = False

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def check(self, context: StageContext) -> None:
        """Check that there is a model to look at, and scenes whose truth is known.

        Raises:
            ConfigError: there is none, or the run is of other data.
        """
        check_source(context, self.name, self.source)
        if not context.cfg.get("scenes"):
            raise ConfigError(
                f"Stage '{self.name}' knows the objects of the tiny world alone; give the config "
                "its `scenes`, or leave the stage out."
            )

    def run(self, context: StageContext) -> list[Row]:
        """Look at each test image once, write what comes of it; there are no rows."""
        model: Any = context.load_model(context.model_path(self.source))[0]
        gates = gates_by_image(context, model, "test_dataloader")
        scenes = context.cfg.scenes
        world = world_of(scenes.get("world"))
        pool = make_pool(stream_of("test", scenes.seed), 0, scenes.test, world=world)
        is_object_IN = object_tokens(pool.instance, model.encoder.grid)
        numbers = [int(Path(image_id).stem.rpartition("_")[2]) for image_id in gates]
        weights_INK = torch.stack([*gates.values()])
        told = weights_on_objects(weights_INK, is_object_IN[numbers], model.hub.slots)
        if is_main_process():
            path = context.folder(self.name) / ON_OBJECTS
            write_text(path, json.dumps(told, indent=1) + "\n")
            context.files[path] = f"what the gate of {self.source} weighs on objects"
        return []


def object_tokens(instance_ICC: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return which tokens [I, N] objects fill at least half of.

    Args:
        instance_ICC: what fills each cell, see `tove.data.tiny_world.rendered.Pool`.
        grid: rows and columns of tokens.
    """
    filled_ICC = (instance_ICC < MAX_OBJECTS).float()
    return F.adaptive_avg_pool2d(filled_ICC, grid).flatten(1) >= 0.5


def weights_on_objects(
    weights_INK: Tensor, is_object_IN: Tensor, slots: tuple[str, ...]
) -> dict[str, Any]:
    """Return the mean weights on the tokens of objects and on all others."""
    means = {
        "objects": weights_INK[is_object_IN].mean(0),
        "elsewhere": weights_INK[~is_object_IN].mean(0),
    }
    told = {
        where: {slot: round(w, 5) for slot, w in zip(slots, mean_K.tolist(), strict=True)}
        for where, mean_K in means.items()
    }
    return {**told, "object_share": round(is_object_IN.double().mean().item(), 5)}
