"""What trainings write numbers with draws as mmengine's own Visualizer does."""

import numpy as np
from mmengine.visualization import Visualizer

from tove.engine.visualizer import NumbersFirstVisualizer


def drawn(kind: type[Visualizer]) -> np.ndarray:
    visualizer = kind(name=kind.__name__)
    visualizer.set_image(np.full((12, 16, 3), 200, np.uint8))
    visualizer.draw_bboxes(np.array([2, 3, 9, 8]))
    return visualizer.get_image()


def test_a_figure_waits_for_the_first_image_and_is_then_mmengine_s():
    assert NumbersFirstVisualizer(name="numbers").fig_save_canvas is None
    assert np.array_equal(drawn(NumbersFirstVisualizer), drawn(Visualizer))
