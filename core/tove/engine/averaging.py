"""mmengine's EMAHook over what trains.

mmengine's averages a copy of the whole model, frozen parts included, and a test after the training
would begin the average anew. Here the copy holds the trained parameters alone; what the training
leaves, and is measured on, is the average.
"""

from mmengine.hooks import EMAHook
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from tove.engine.distributed import unwrapped
from tove.registry import HOOKS

__all__ = ["TrainedEMAHook", "trained_view"]


def trained_view(model: nn.Module) -> nn.Module:
    """Return a module that holds a model's trained parameters, the same tensors by the same names.

    It computes nothing.
    """
    view = nn.Module()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        *path, leaf = name.split(".")
        place = view
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.register_parameter(leaf, parameter)
    return view


@HOOKS.register_module(name="EMAHook")
class TrainedEMAHook(EMAHook):
    """An exponential moving average of what trains; takes mmengine's arguments."""

    ended = False

    def before_run(self, runner: Runner) -> None:
        """Begin the average once; a Runner says so before every training and every test."""
        if hasattr(self, "ema_model"):
            return
        self.src_model = trained_view(unwrapped(runner.model))
        self.ema_model = MODELS.build(self.ema_cfg, default_args={"model": self.src_model})

    def after_train(self, runner: Runner) -> None:
        """Leave the average in the model."""
        self._swap_ema_parameters()
        self.ended = True

    def before_test_epoch(self, runner: Runner) -> None:
        """Measure the average; after the training it is what the model has."""
        if not self.ended:
            super().before_test_epoch(runner)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Put back what trains, unless the training has ended."""
        if not self.ended:
            super().after_test_epoch(runner, metrics)
