import json
from pathlib import Path

import numpy as np

from tove.report.model_probes import GateSample, depth_layers, evenly, relation_counts, row_layers
from tove.report.report_data import read_losses


def sample(gates, names=("s_0", "s_1")):
    ids = tuple(f"/data/images/{name}.png" for name in names)
    images = np.zeros((len(ids), 8, 8, 3), dtype=np.uint8)
    return GateSample(ids, images, gates, ("a", "b"))


def halves():
    """Expert `a` has the upper half of every image, `b` the lower."""
    gates = np.zeros((2, 4, 4, 2))
    gates[:, :2, :, 0] = 1
    gates[:, 2:, :, 1] = 1
    return gates


def test_rows_start_at_the_bottom_of_the_image():
    rows = row_layers(sample(halves()))
    np.testing.assert_array_equal(rows[0], [[0, 1], [0, 1], [1, 0], [1, 0]])


def write_depth(root: Path, **maps):
    (root / "annotations").mkdir()
    np.savez_compressed(root / "annotations/depth_test.npz", **maps)


def test_layers_of_depth_start_with_the_nearest(tmp_path: Path):
    far_above = np.repeat(np.linspace(3, 1, 16)[:, None], 16, axis=1).astype(np.float16)
    write_depth(tmp_path, s_0=far_above, s_1=far_above)
    layers = depth_layers(sample(halves()), tmp_path, num_layers=2)
    np.testing.assert_array_equal(layers[0], [[0, 1], [1, 0]])


def test_an_image_without_tokens_in_a_layer_is_nan_there(tmp_path: Path):
    write_depth(tmp_path, s_0=np.ones((8, 8)), s_1=np.full((8, 8), 2.0))
    layers = depth_layers(sample(halves()), tmp_path, num_layers=2)
    assert np.isnan(layers[0, 1]).all()
    assert np.isnan(layers[1, 0]).all()


def test_photos_without_depth_have_no_layers_of_it(tmp_path: Path):
    assert depth_layers(sample(halves()), tmp_path) is None
    write_depth(tmp_path, s_0=np.ones((8, 8)))
    assert depth_layers(sample(halves()), tmp_path) is None


def test_samples_are_taken_evenly():
    assert evenly(3, 10) == [0, 1, 2]
    assert evenly(100, 4) == [0, 25, 50, 75]
    assert evenly(0, 4) == []


def test_relations_are_counted_over_statements_only():
    samples = [{"task": "statement", "relation": "left"}] * 3 + [{"task": "caption"}]
    assert relation_counts(samples) == {"left": 3}


def test_losses_survive_a_half_written_line_and_leave_the_total_out(tmp_path: Path):
    path = tmp_path / "loss.jsonl"
    lines = [{"iter": i, "loss": 3.0, "loss_lm": 2.0, "lr": 0.1} for i in (1, 2)]
    lines.append({"iter": 3, "loss": float("nan"), "loss_lm": float("nan"), "lr": 0.1})
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"iter": 4, "lo')
    assert read_losses(path) == {"loss_lm": ([1, 2], [2.0, 2.0])}
    path.write_text(json.dumps({"iter": 1, "loss": 3.0}))
    assert list(read_losses(path)) == ["loss"]
    assert read_losses(tmp_path / "none.jsonl") == {}
