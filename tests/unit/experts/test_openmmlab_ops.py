"""mmcv's ops give what plain references give, with no compiled extension on the machine.

All are called through `mmcv.ops`, so names and arguments are those of mmcv; where mmcv does have a
compiled extension, these tests hold that one to the same references.
"""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from tove_experts.openmmlab.fallback import EXTENSION, serve_mmcv_ops

serve_mmcv_ops()
ops = pytest.importorskip("mmcv.ops", reason="mmcv is missing: pip install 'tove_plugins[mm]'")

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def random_boxes(number, side=100.0):
    first = torch.rand(number, 2) * side
    return torch.cat((first, first + 5 + torch.rand(number, 2) * side / 2), dim=1)


def iou(one, other, offset):
    width = min(one[2], other[2]) - max(one[0], other[0]) + offset
    height = min(one[3], other[3]) - max(one[1], other[1]) + offset
    shared = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0] + offset) * (b[3] - b[1] + offset) for b in (one, other)]
    return shared / (sum(areas) - shared)


def reference_nms(boxes, scores, threshold, offset=0):
    boxes, kept = boxes.tolist(), []
    for index in scores.argsort(descending=True).tolist():
        if all(iou(boxes[index], boxes[k], offset) <= threshold for k in kept):
            kept.append(index)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
def test_nms_keeps_the_best_of_each_heap(offset, threshold):
    boxes, scores = random_boxes(40).repeat(2, 1) + torch.rand(80, 4), torch.rand(80)
    found, kept = ops.nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == reference_nms(boxes, scores, threshold, offset)
    torch.testing.assert_close(found, torch.cat((boxes[kept], scores[kept, None]), dim=1))
    assert 1 < len(kept) < 80


def test_nms_counts_an_offset_of_one_pixel():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 2, 4, 6]])  # IoU 1/3 of lengths, 15/35 of pixels
    scores = torch.tensor([0.9, 0.8])
    assert len(ops.nms(boxes, scores, 0.4, offset=0)[1]) == 2
    assert len(ops.nms(boxes, scores, 0.4, offset=1)[1]) == 1


def test_nms_keeps_what_is_at_the_threshold():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 6, 10]])  # an IoU of 0.6
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1]) == 2


def test_nms_by_score_and_number():
    boxes, scores = random_boxes(60), torch.rand(60)
    _, kept = ops.nms(boxes, scores, 0.5, score_threshold=0.3, max_num=5)
    expected = [k for k in reference_nms(boxes, scores, 0.5) if scores[k] > 0.3]
    assert kept.tolist() == expected[:5]
    assert len(ops.nms(boxes[:0], scores[:0], 0.5)[1]) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nms_takes_half_precision(dtype):
    boxes, scores = random_boxes(40).to(dtype), torch.linspace(1, 0, 40).to(dtype)
    kept = ops.nms(boxes, scores, 0.5)[1]
    assert kept.tolist() == ops.nms(boxes.float(), scores.float(), 0.5)[1].tolist()


@pytest.mark.parametrize("split", [10_000, 1])
def test_batched_nms_is_nms_within_each_class(split):
    boxes, scores, classes = random_boxes(90), torch.rand(90), torch.randint(3, (90,))
    config = {"type": "nms", "iou_threshold": 0.4, "split_thr": split}
    found, kept = ops.batched_nms(boxes, scores, classes, config)
    expected = []
    for number in range(3):
        own = (classes == number).nonzero().flatten()
        expected += own[reference_nms(boxes[own], scores[own], 0.4)].tolist()
    assert kept.tolist() == sorted(expected, key=lambda k: -scores[k])
    torch.testing.assert_close(found[:, 4], scores[kept])


def reference_softnms(boxes, scores, threshold, sigma, least, method, offset):
    """Follow Algorithm 1 of arXiv:1704.04503."""
    boxes, scores = boxes.tolist(), dict(enumerate(scores.tolist()))
    decay = {
        "naive": lambda o: 0 if o >= threshold else 1,
        "linear": lambda o: 1 - o if o >= threshold else 1,
        "gaussian": lambda o: math.exp(-(o**2) / sigma),
    }[method]
    kept = []
    while scores:
        best = max(scores, key=scores.get)
        kept.append((best, scores.pop(best)))
        scores = {k: s * decay(iou(boxes[best], boxes[k], offset)) for k, s in scores.items()}
        scores = {k: s for k, s in scores.items() if s >= least}
    return kept


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
def test_soft_nms_decays_scores(method, offset):
    boxes, scores = random_boxes(60), torch.rand(60)
    found, kept = ops.soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    expected = reference_softnms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    assert kept.tolist() == [index for index, _ in expected]
    torch.testing.assert_close(found[:, 4], torch.tensor([score for _, score in expected]))
    torch.testing.assert_close(found[:, :4], boxes[kept])


def bilinear(map_hw, y, x):
    """Read one place; zero from a whole pixel outside on, as RoIAlign has it."""
    height, width = map_hw.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = (1 - across) * map_hw[top, left] + across * map_hw[top, right]
    lower = (1 - across) * map_hw[below, left] + across * map_hw[below, right]
    return float((1 - down) * upper + down * lower)


def reference_roi_align(map_BChw, rois, bins, scale, samples, aligned):
    out = torch.zeros(len(rois), map_BChw.shape[1], bins, bins)
    for n, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in corners)
        least = 0 if aligned else 1
        height, width = max(y2 - y1, least) / bins, max(x2 - x1, least) / bins
        rows, columns = samples or math.ceil(height), samples or math.ceil(width)
        for channel, i, j in torch.cartesian_prod(*map(torch.arange, out.shape[1:])).tolist():
            values = [
                bilinear(
                    map_BChw[int(image), channel],
                    y1 + (i + (a + 0.5) / rows) * height,
                    x1 + (j + (b + 0.5) / columns) * width,
                )
                for a in range(rows)
                for b in range(columns)
            ]
            out[n, channel, i, j] = sum(values) / len(values)
    return out


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align_averages_bilinear_samples(aligned, samples):
    map_BChw = torch.randn(2, 3, 9, 11)
    rois = torch.tensor([[0.0, 3, 2, 37, 30], [1, -6, -3, 20, 22], [1, 5, 5, 5.5, 6]])
    found = ops.roi_align(map_BChw, rois, 3, 0.25, samples, "avg", aligned)
    expected = reference_roi_align(map_BChw, rois, 3, 0.25, samples, aligned)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_align_takes_half_precision(dtype):
    map_BChw, rois = torch.randn(1, 2, 8, 8), torch.tensor([[0.0, 0, 0, 7, 7]])
    found = ops.RoIAlign(2)(map_BChw.to(dtype), rois)
    assert found.dtype == dtype
    expected = ops.RoIAlign(2)(map_BChw.to(dtype).float(), rois)
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)


def reference_deform_conv(map_BChw, offset, weight, mask, stride, padding, dilation, groups):
    """Sample each tap's map by grid_sample, then multiply; zero outside, as in the papers."""
    batch, channels, height, width = map_BChw.shape
    rows, columns = offset.shape[-2:]
    kernel = weight.shape[-1]
    shifts = offset.unflatten(1, (-1, kernel, kernel, 2))  # [B, deform group, k, k, (y, x), ...]
    parts = map_BChw.chunk(shifts.shape[1], dim=1)
    ys = torch.arange(rows)[:, None] * stride - padding
    xs = torch.arange(columns)[None] * stride - padding
    taps = torch.zeros(batch, channels, kernel, kernel, rows, columns)
    for group, part in enumerate(parts):
        own = slice(group * part.shape[1], (group + 1) * part.shape[1])
        for i in range(kernel):
            for j in range(kernel):
                y = ys + i * dilation + shifts[:, group, i, j, 0]
                x = xs + j * dilation + shifts[:, group, i, j, 1]
                places = torch.stack((2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
                read = F.grid_sample(part, places, align_corners=True)
                if mask is not None:
                    read = read * mask.unflatten(1, (-1, kernel, kernel))[:, group, i, j, None]
                taps[:, own, i, j] = read
    grouped = taps.unflatten(1, (groups, -1))
    weights = weight.unflatten(0, (groups, -1))
    return torch.einsum("bgcijhw,gocij->bgohw", grouped, weights).flatten(1, 2)


SHAPES = [(1, 1, 1, 1, 1), (2, 1, 1, 1, 2), (1, 2, 2, 2, 1), (2, 0, 1, 4, 2)]
"""Stride, padding, dilation, groups, deform groups."""


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups", "deform_groups"), SHAPES)
@pytest.mark.parametrize("modulated", [False, True])
def test_deform_conv_reads_displaced_places(
    stride, padding, dilation, groups, deform_groups, modulated
):
    map_BChw, weight = torch.randn(2, 4, 9, 10), torch.randn(8, 4 // groups, 3, 3)
    rows, columns = F.conv2d(map_BChw, weight, None, stride, padding, dilation, groups).shape[-2:]
    offset = torch.randn(2, deform_groups * 18, rows, columns)
    mask = torch.rand(2, deform_groups * 9, rows, columns) if modulated else None
    expected = reference_deform_conv(
        map_BChw, offset, weight, mask, stride, padding, dilation, groups
    )
    step = (stride, padding, dilation, groups, deform_groups)
    if modulated:
        bias = torch.randn(8)
        found = ops.modulated_deform_conv2d(map_BChw, offset, mask, weight, bias, *step)
        expected = expected + bias[:, None, None]
    else:
        found = ops.deform_conv2d(map_BChw, offset, weight, *step)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_deform_conv_without_displacement_is_a_convolution():
    map_BChw = torch.randn(1, 4, 7, 7)
    layer = ops.ModulatedDeformConv2dPack(4, 6, 3, padding=1)  # its offsets begin at zero
    with torch.no_grad():
        found = layer(map_BChw)
    half = 0.5 * F.conv2d(map_BChw, layer.weight, None, padding=1)  # and its masks at one half
    torch.testing.assert_close(found, (half + layer.bias[:, None, None]).detach())


def attention_inputs(dtype=torch.float32):
    shapes = torch.tensor([[6, 8], [3, 4]])
    starts = torch.tensor([0, 48])
    value = torch.randn(2, 60, 3, 5)
    places = torch.rand(2, 7, 3, 2, 4, 2) * 1.2 - 0.1  # some outside the image
    weights = torch.randn(2, 7, 3, 8).softmax(-1).unflatten(-1, (2, 4))
    return value.to(dtype), shapes, starts, places.to(dtype), weights.to(dtype)


def test_ms_deform_attn_is_the_weighted_sum_of_its_points():
    value, shapes, starts, places, weights = inputs = attention_inputs()
    from mmcv.ops.multi_scale_deform_attn import (
        MultiScaleDeformableAttnFunction,
        multi_scale_deformable_attn_pytorch,
    )

    found = MultiScaleDeformableAttnFunction.apply(*inputs, 64)
    expected = torch.zeros(2, 7, 3, 5)
    for level, (height, width) in enumerate(shapes.tolist()):
        start = int(starts[level])
        maps = value[:, start : start + height * width].unflatten(1, (height, width))
        padded = F.pad(maps, (0, 0, 0, 0, 2, 2, 2, 2))
        for b, q, h, p in torch.cartesian_prod(*map(torch.arange, (2, 7, 3, 4))).tolist():
            x, y = (places[b, q, h, level, p] * torch.tensor([width, height]) + 1.5).tolist()
            top, left = math.floor(y), math.floor(x)
            corners = padded[b, top : top + 2, left : left + 2, h]
            share = torch.tensor([1 - (y - top), y - top])[:, None] * torch.tensor(
                [1 - (x - left), x - left]
            )
            read = (share[..., None] * corners).sum((0, 1))
            expected[b, q, h] += weights[b, q, h, level, p] * read
    torch.testing.assert_close(found, expected.flatten(2))
    theirs = multi_scale_deformable_attn_pytorch(value, shapes, places, weights)
    torch.testing.assert_close(found, theirs)


def test_ms_deform_attn_takes_half_precision():
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction as Attention

    inputs = attention_inputs(torch.float16)
    found = Attention.apply(*inputs, 64)
    wide = [x.float() if x.is_floating_point() else x for x in inputs]
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), Attention.apply(*wide, 64), atol=5e-3, rtol=5e-3)


needs_fallback = pytest.mark.skipif(
    not hasattr(sys.modules[EXTENSION], "_SERVED"), reason="mmcv has its compiled extension here"
)


@needs_fallback
def test_an_op_that_is_not_served_says_what_to_do():
    with pytest.raises(NotImplementedError, match=r"op 'carafe_forward' cannot run.*pip install"):
        ops.carafe(torch.randn(1, 4, 4, 4), torch.rand(1, 9, 8, 8), 3, 1, 2)
    with pytest.raises(NotImplementedError, match="pool_mode='max' needs mmcv's compiled"):
        ops.roi_align(torch.randn(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 3, 3]]), 2, 1.0, 0, "max")


@needs_fallback
def test_a_gradient_through_an_op_is_refused():
    map_BChw = torch.randn(1, 2, 5, 5, requires_grad=True)
    found = ops.deform_conv2d(map_BChw, torch.zeros(1, 18, 5, 5), torch.randn(2, 2, 3, 3), 1, 1)
    with pytest.raises(NotImplementedError, match="frozen experts need none"):
        found.sum().backward()


@needs_fallback
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_ops_stay_on_the_device():
    boxes, scores = random_boxes(50), torch.rand(50)
    assert ops.nms(boxes.cuda(), scores.cuda(), 0.5)[1].tolist() == reference_nms(
        boxes, scores, 0.5
    )
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction as Attention

    inputs = attention_inputs()
    found = Attention.apply(*(x.cuda() for x in inputs), 64)
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), Attention.apply(*inputs, 64), atol=1e-5, rtol=1e-5)


def run_python(code, *paths):
    path = [*map(str, paths), str(ROOT), str(ROOT / "expert_plugins")]
    code = f"import sys; sys.path[:0] = {path!r}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_compiled_extension_is_preferred(tmp_path):
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_ext.py").write_text("BY = 'the compiler'")
    code = (
        "from tove_experts.openmmlab.fallback import serve_mmcv_ops\n"
        "serve_mmcv_ops()\n"
        "import importlib.util, mmcv._ext\n"
        "print(mmcv._ext.BY, importlib.util.find_spec('mmcv._ext').origin)"
    )
    assert run_python(code, tmp_path).split() == ["the", "compiler", str(package / "_ext.py")]


@needs_fallback
def test_the_fallback_may_come_after_mmcv_and_twice():
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "import mmcv.cnn\n"  # which tries mmcv.ops, in vain
        "from tove_experts.openmmlab.fallback import serve_mmcv_ops\n"
        "serve_mmcv_ops(); serve_mmcv_ops()\n"
        "print(sum(type(f).__name__ == '_FallbackFinder' for f in sys.meta_path))\n"
        "import importlib.util, mmcv.ops\n"
        "print(importlib.util.find_spec('mmcv._ext').origin)"
    )
    count, *said, origin = run_python(code).splitlines()
    assert count == "1"
    assert len(said) == 1
    assert "mmcv has no compiled extension here" in said[0]
    assert Path(origin).name == "ops.py"
