"""Attention of the class token, weights, losses, masks, teacher dropping."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tove.backbones.clip.encoder import OpenCLIP, TransformersCLIP
from tove.errors import ConfigError
from tove.methods.move_kd.attention_weights import (
    class_attention,
    teacher_weights,
    token_weights,
    with_clip_share,
)
from tove.methods.move_kd.balance import routing_balance
from tove.methods.move_kd.loss import distillation_loss, token_errors
from tove.methods.move_kd.teacher_adapter import make_adapter
from tove.methods.move_kd.teacher_dropping import kept_teachers
from tove.modules.masked_mean import mean_over_images, view_weights


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def eager_row(block, x):
    """The class token's row of transformers' own eager attention."""
    block.self_attn.config._attn_implementation = "eager"
    return block.self_attn(block.layer_norm1(x), output_attentions=True)[1][:, :, 0]


def test_class_attention_is_the_blocks_own_row(clip_folder):
    block = TransformersCLIP(clip_folder).model.vision_model.encoder.layers[1]
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 17, 32)
    found = class_attention(block, x)
    assert found.shape == (2, 4, 17)
    torch.testing.assert_close(found, eager_row(block, x), atol=1e-6, rtol=0)
    assert found.std() > 0.05
    # In the tokens' own dtype: float64 to its last digits, bfloat16 without a detour.
    wide = class_attention(block.double(), x.double())
    torch.testing.assert_close(wide.sum(-1), torch.ones(2, 4).double(), atol=1e-14, rtol=0)
    torch.testing.assert_close(wide.float(), found, atol=1e-6, rtol=0)
    half = class_attention(block.bfloat16(), x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), wide, atol=0.03, rtol=0)


def test_class_attention_of_open_clip_equals_torch():
    open_clip = pytest.importorskip("open_clip")
    block = open_clip.transformer.ResidualAttentionBlock(32, 4).double().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    x = torch.randn(2, 10, 32).double()
    normed = block.ln_1(x)
    options = {"need_weights": True, "average_attn_weights": False}
    expected = block.attn(normed[:, :1], normed, normed, **options)[1][:, :, 0]
    torch.testing.assert_close(class_attention(block, x), expected, atol=1e-12, rtol=0)
    assert OpenCLIP  # its blocks are these


def test_class_attention_of_another_block_is_a_sentence():
    with pytest.raises(ConfigError, match="Linear"):
        class_attention(nn.Linear(3, 3), torch.randn(1, 2, 3))


ROW = torch.tensor([[[0.2, 0.4, 0.3, 0.1], [0.5, 0.1, 0.1, 0.3]]]).double()  # 2 heads, 3 patches


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        ("as_is", [0.25, 0.2, 0.2]),
        ("paper", [0.25 / 0.65, 0.2 / 0.65, 0.2 / 0.65]),
        ("per_head", [(0.5 + 0.2) / 2, (0.375 + 0.2) / 2, (0.125 + 0.6) / 2]),
        ("released", torch.tensor([0.25, 0.2, 0.2]).double().softmax(0).tolist()),
    ],
)
def test_token_weight_readings_and_their_masks(reading, expected):
    expected = torch.tensor([expected]).double()
    torch.testing.assert_close(token_weights(ROW, reading), expected)
    valid = torch.tensor([[True, False, True]])
    kept = expected * valid * expected.sum() / (expected * valid).sum()
    torch.testing.assert_close(token_weights(ROW, reading, valid), kept)
    assert token_weights(ROW, reading, torch.zeros(1, 3, dtype=torch.bool)).tolist() == [[0] * 3]


def test_no_token_weights():
    assert token_weights(ROW, "none") is None


def test_teacher_weights():
    cls = torch.tensor([[2.0, 0.0, 0.0, 0.0]], requires_grad=True)
    near = torch.tensor([[[1.0, 0, 0, 0], [3.0, 9, 0, 0]]], requires_grad=True)
    far = torch.zeros(1, 2, 4)
    paper = teacher_weights(cls, [near, far])
    torch.testing.assert_close(paper, torch.tensor([[4.0 / 2, 0]]).softmax(-1))
    assert not paper.requires_grad
    released = teacher_weights(cls, [near, far], "released")
    torch.testing.assert_close(released, torch.tensor([[4.0, 0]]).softmax(-1).softmax(-1))
    assert released.requires_grad
    below = teacher_weights(cls / 4, [near, far], "released")
    torch.testing.assert_close(below, torch.tensor([[1.0, 0]]).softmax(-1))
    assert teacher_weights(cls, [near, far, far], "uniform").tolist() == [
        [pytest.approx(1 / 3)] * 3
    ]
    torch.testing.assert_close(with_clip_share(paper)[:, 0], torch.tensor([0.8]))
    torch.testing.assert_close(with_clip_share(paper, 0.5)[:, 1:], paper / 2)
    assert with_clip_share(paper[:, :0]).tolist() == [[1.0]]


def test_loss_by_hand():
    errors = torch.tensor([[[1.0, 3.0], [2.0, 2.0]], [[0.0, 4.0], [6.0, 8.0]]])  # [B, T, N]
    teachers = torch.tensor([[0.8, 0.2], [0.5, 0.5]])
    tokens = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    plain = 0.5 * ((0.8 * 2 + 0.2 * 2) + (0.5 * 2 + 0.5 * 7))
    assert distillation_loss(errors, teachers).loss.item() == pytest.approx(plain)
    weighted = 0.5 * ((0.8 * 4.5 + 0.2 * 4) + (0.5 * 4 + 0.5 * 14))
    out = distillation_loss(errors, teachers, tokens)
    assert out.loss.item() == pytest.approx(weighted)
    assert out.by_teacher_BT.tolist() == [[2, 2], [2, 7]]
    only_second = distillation_loss(errors, teachers, tokens, weights_B=torch.tensor([0, 1]))
    assert only_second.loss.item() == pytest.approx(0.5 * 4 + 0.5 * 14)


def test_a_padded_patch_does_not_count():
    valid = torch.tensor([[True, True, False]])
    whole, cut = torch.rand(1, 2, 3), torch.rand(1, 2)
    tokens = token_weights(torch.rand(1, 4, 4), "as_is", valid)
    other = whole.clone()
    other[..., 2] = 99.0
    losses = [distillation_loss(e, cut, tokens, valid).loss for e in (whole, other)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(
        losses[0], distillation_loss(whole[..., :2], cut, tokens[:, :2]).loss
    )


def test_tiles_of_one_image_share_its_place():
    errors = torch.rand(5, 2, 3)
    weights = view_weights(torch.tensor([0, 1, 1, 1, 1]), 2)
    assert weights.tolist() == [1, 0.25, 0.25, 0.25, 0.25]
    teachers = torch.full((5, 2), 0.5)
    loss = distillation_loss(errors, teachers, weights_B=weights).loss
    by_image = errors.mean((1, 2))
    torch.testing.assert_close(loss, (by_image[0] + by_image[1:].mean()) / 2)


def test_no_image_at_all_is_zero_with_zero_gradients():
    prediction = torch.randn(2, 3, 4, requires_grad=True)
    errors = token_errors(prediction, torch.randn(2, 3, 4))[:, None]
    loss = distillation_loss(errors, torch.ones(2, 1), weights_B=torch.zeros(2)).loss
    loss.backward()
    assert loss == 0
    assert prediction.grad.abs().max() == 0


def test_token_errors_are_wide():
    prediction, target = torch.full((1, 1, 4096), 1.0), torch.full((1, 1, 4096), 0.9)
    assert token_errors(prediction.bfloat16(), target.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(token_errors(prediction, target), torch.tensor([[0.01]]))


def test_balance_by_hand():
    sure = torch.tensor([0.8, 0.1, 0.1])
    one = sure.expand(2, 4, 3)  # every token of both images to expert 0
    assert routing_balance([one, one]).item() == pytest.approx(0.8)
    even = torch.stack([sure.roll(k) for k in range(3)])[None]  # three tokens, an expert each
    assert routing_balance([even]).item() == pytest.approx(1 / 3)
    assert routing_balance([even], "times_experts").item() == pytest.approx(1.0)
    rolled = [sure.roll(k).expand(1, 4, 3) for k in range(3)]  # even over layers, not in any
    assert routing_balance(rolled).item() == pytest.approx(1 / 3)
    assert routing_balance(rolled, "per_layer").item() == pytest.approx(0.8)


def test_balance_leaves_out_padding_and_samples_without_image():
    p = torch.rand(2, 5, 3).softmax(-1).requires_grad_()
    valid = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    found = routing_balance([p], valid_BP=valid, weights_B=torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found, routing_balance([p[:1, :3]]))
    found.backward()
    assert p.grad[1].abs().max() == p.grad[0, 3:].abs().max() == 0 < p.grad[0, :3].abs().max()


def test_the_furthest_teacher_is_kept_and_others_are_drawn():
    loss = torch.tensor([[1.0, 3.0, 2.0]]).expand(4000, 3)
    kept = kept_teachers(loss, 0.3, torch.Generator().manual_seed(0))
    assert (kept[:, 1] == 1).all()
    assert kept[:, [0, 2]].mean().item() == pytest.approx(0.7, abs=0.02)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert (kept_teachers(loss, 0.0) == 1).all()


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("reading", ["paper", "released", "uniform"])
def test_no_number_is_read_on_the_host(reading):
    with FakeTensorMode(), torch.device("cuda"):
        attention, valid = torch.rand(2, 4, 17), torch.ones(2, 16, dtype=torch.bool)
        adapter = make_adapter("channel_token", (6, (3, 3)), (8, (4, 4)))
        adapted, student = adapter(torch.randn(2, 9, 6)), torch.randn(2, 16, 8)
        weights = with_clip_share(teacher_weights(torch.randn(2, 8), [adapted], reading))
        errors = torch.stack([token_errors(student, adapted)] * 2, 1)
        tokens = token_weights(attention, "paper", valid)
        image = torch.zeros(2, dtype=torch.int64)
        views = view_weights(image, 1)
        weights = weights * kept_teachers(errors.mean(-1), 0.5)
        loss = distillation_loss(errors, weights, tokens, valid, views).loss
        loss = loss + routing_balance([torch.rand(2, 17, 3)], weights_B=views)
    assert loss.device.type == "cuda"


ONE_OF_TWO = """
import sys, torch
from tove.modules.masked_mean import mean_over_images
rank, store, case = int(sys.argv[1]), sys.argv[2], torch.load(sys.argv[3])
torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
layer = torch.nn.Linear(3, 1).double()
layer.load_state_dict(case["state"])
parallel = torch.nn.parallel.DistributedDataParallel(layer)
x = case["x"].chunk(2)[rank]
for weights, grad in zip(case["weights"], case["grads"], strict=True):
    layer.zero_grad()
    loss = mean_over_images(parallel(x)[:, 0].square(), weights.chunk(2)[rank])
    loss.backward()
    torch.testing.assert_close(layer.weight.grad, grad)
torch.distributed.destroy_process_group()
"""


def test_ranks_with_unlike_numbers_of_images_give_the_whole_batchs_gradient(tmp_path):
    layer, x = nn.Linear(3, 1).double(), torch.randn(4, 3).double()
    weights = torch.tensor([[1, 1, 1, 0], [0, 0, 0.5, 0.5], [0, 0, 0, 0]]).double()
    grads = []
    for own in weights:
        layer.zero_grad()
        mean_over_images(layer(x)[:, 0].square(), own).backward()
        grads.append(layer.weight.grad.clone())
    case = {"state": layer.state_dict(), "x": x, "weights": weights, "grads": grads}
    torch.save(case, tmp_path / "case.pt")
    arguments = [f"file://{tmp_path}/store", str(tmp_path / "case.pt")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ranks = [
        subprocess.Popen([sys.executable, "-c", ONE_OF_TWO, str(rank), *arguments], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=60) for process in ranks] == [0, 0]
