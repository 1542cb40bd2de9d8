"""mmengine's Visualizer for trainings, which write numbers and seldom draw."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from mmengine.visualization import Visualizer

from tove.registry import VISUALIZERS

__all__ = ["NumbersFirstVisualizer"]


@VISUALIZERS.register_module()
class NumbersFirstVisualizer(Visualizer):
    """mmengine's Visualizer, whose figure, and matplotlib with it, waits for the first image."""

    fig_save_canvas: Any

    def _initialize_fig(self, fig_cfg: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return none of canvas, figure and axes yet; of the figure the resolution is asked for."""
        return None, SimpleNamespace(get_dpi=lambda: None), None

    def set_image(self, image: np.ndarray) -> None:
        """Set the image that is drawn upon: what is drawn begins with it."""
        if self.fig_save_canvas is None:
            made = super()._initialize_fig(self.fig_save_cfg)
            self.fig_save_canvas, self.fig_save, self.ax_save = made
            self.dpi = self.fig_save.get_dpi()
        super().set_image(image)
