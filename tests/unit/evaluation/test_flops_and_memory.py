"""Operations and memory against what the equations give for small calls."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from tove.evaluation.profile.flops import count_flops
from tove.evaluation.profile.memory import module_bytes, peak_bytes

ATTENTION = 2 * (2 * 2 * 5 * 5 * 4)  # scores and sums of 2 heads of width 4 over 5 tokens
PROJECTIONS = 2 * 5 * 8 * (24 + 8)


@torch.no_grad()
def flops(module: nn.Module, *inputs: torch.Tensor) -> int:
    return count_flops(lambda: module.eval()(*inputs))


def test_a_multiply_and_an_add_are_two_operations():
    assert flops(nn.Linear(3, 5), torch.rand(7, 3)) == 2 * 7 * 3 * 5
    image = torch.rand(1, 4, 8, 8)
    assert flops(nn.Conv2d(4, 6, 3, padding=1, groups=2), image) == 2 * 6 * 64 * 2 * 9


def test_attention_counts_on_every_device_and_through_every_module():
    query = torch.rand(1, 2, 5, 4)
    assert count_flops(lambda: F.scaled_dot_product_attention(query, query, query)) == ATTENTION
    tokens = torch.rand(1, 5, 8)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    assert flops(attention, tokens, tokens, tokens) == PROJECTIONS + ATTENTION
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert flops(layer, tokens) == PROJECTIONS + ATTENTION + 2 * 2 * 5 * 8 * 16


def test_counting_gives_torch_s_fast_path_back():
    count_flops(lambda: None)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_deformable_convolution_counts_as_a_convolution():
    image, offset = torch.rand(2, 4, 8, 8), torch.zeros(2, 18, 8, 8)
    layer = torchvision.ops.DeformConv2d(4, 6, 3, padding=1)
    assert flops(layer, image, offset) == flops(nn.Conv2d(4, 6, 3, padding=1), image)


def test_the_meta_device_counts_the_same():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    expected = flops(layer, torch.rand(1, 5, 8))
    assert flops(layer.to("meta"), torch.rand(1, 5, 8, device="meta")) == expected


@torch.no_grad()
def test_memory_is_the_weights_and_what_lives_at_one_time():
    layer = nn.Linear(100, 100)
    x = torch.rand(10, 100)
    weights, activation = 4 * (100 * 100 + 100), 4 * 10 * 100

    def chain() -> torch.Tensor:
        y = x
        for _ in range(5):
            y = layer(y)  # the one before dies with it
        return y

    assert peak_bytes(chain, [layer]) == weights + 2 * activation
    assert peak_bytes(lambda: [layer(x) for _ in range(5)], [layer]) == weights + 5 * activation


@torch.no_grad()
def test_views_and_changes_in_place_need_no_memory():
    x = torch.rand(10, 100)
    assert peak_bytes(lambda: x.view(100, 10).t().add_(1), []) == 0


def test_sparse_tensors_do_not_stop_the_measuring():
    adjacency, x = torch.eye(8).to_sparse(), torch.rand(8, 4)
    assert peak_bytes(lambda: torch.sparse.mm(adjacency.coalesce() * 2, x), []) >= 8 * 4 * 4


def test_a_shared_weight_is_held_once():
    shared = nn.Linear(4, 4, bias=False)
    assert module_bytes([shared, nn.Sequential(shared)]) == 4 * 16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_cuda_counts_by_its_allocator():
    layer = nn.Linear(512, 512, device="cuda")
    x = torch.rand(512, 512, device="cuda")
    layer(x)
    peak = peak_bytes(lambda: layer(layer(x)), [layer])
    assert peak >= module_bytes([layer]) + 2 * 4 * 512 * 512
