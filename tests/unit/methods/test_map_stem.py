"""Maps become tokens through a trained stem: its grids, its normalisation, and a whole model."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tove.evaluation.profile.parameters import count_parameters
from tove.methods.tove.merging import Merge
from tove.modules.batch_norm import GlobalBatchNorm
from tove.modules.map_stem import MapStem
from tove.modules.projector import Projector
from tove.modules.resample import resample_tokens
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec


class Brightness(nn.Module):
    """A map expert: two channels of a 16x16 image, pixel by pixel."""

    spec = ExpertSpec(
        "brightness",
        "testing",
        "tests:Brightness",
        TokenSpec(2, (16, 16), "map"),
        ImageSpec((16, 16), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    )

    def forward(self, images):
        return torch.stack([images.mean(1), images.amax(1)], -1).flatten(1, 2)


@pytest.fixture
def with_map(make_model, experts):
    """Build a ToVE with a map expert in the slot `edges` beside the two others."""

    def make(**options):
        slots = {**experts, "edges": {"type": Brightness}}
        return make_model(**{"experts": slots, **options})

    return make


@pytest.mark.parametrize(
    ("grid_in", "grid_out", "num_stages", "grid"),
    [
        ((224, 224), (14, 14), 4, (14, 14)),
        ((224, 224), (16, 16), 3, (28, 28)),
        ((27, 27), (7, 7), 1, (14, 14)),
        ((30, 40), (7, 7), 2, (8, 10)),
        ((30, 80), (7, 7), 2, (8, 20)),
        ((80, 30), (7, 7), 2, (20, 8)),
        ((8, 8), (8, 8), 1, (8, 8)),
        ((4, 4), (8, 8), 1, (4, 4)),
    ],
)
def test_halves_down_to_clips_grid_and_no_further(grid_in, grid_out, num_stages, grid):
    stem = MapStem(3, grid_in, grid_out, 64)
    assert len(stem.stages) == num_stages
    tokens = stem(torch.randn(2, grid_in[0] * grid_in[1], 3))
    assert stem.grid == grid
    assert tokens.shape == (2, grid[0] * grid[1], 64)


@torch.no_grad()
def test_keeps_rows_and_columns_apart():
    torch.manual_seed(0)
    stem = MapStem(1, (16, 32), (4, 8), 64).eval()
    quiet = torch.zeros(1, 16, 32, 1)
    for row, column in ((1, 6), (2, 2), (1, 1)):
        marked = quiet.clone()
        marked[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1.0
        difference = stem(marked.flatten(1, 2)) - stem(quiet.flatten(1, 2))
        moved = difference.square().sum(-1).view(4, 8)
        moved = moved / moved.sum()
        # A 3x3 kernel of stride 2 sits at the start of its cell: up to half a cell late.
        assert abs(float(moved.sum(1) @ torch.arange(4.0)) - row) < 0.75
        assert abs(float(moved.sum(0) @ torch.arange(8.0)) - column) < 0.75


def test_one_image_trains():
    stem = MapStem(1, (16, 16), (4, 4), 16).train()
    stem(torch.randn(1, 256, 1)).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in stem.parameters())


def test_shared_layer_is_applied_once_with_a_stem_too():
    torch.manual_seed(0)
    grids = {"a": (3, 3), "m": (24, 24)}
    projector = Projector(6, {"a": 5, "m": 2}, (4, 4), grids, 9, 11, {"m"}).double().eval()
    tokens = {
        "a": torch.randn(2, 9, 5, dtype=torch.float64),
        "m": torch.randn(2, 576, 2, dtype=torch.float64),
    }
    gates = torch.randn(2, 16, 2, dtype=torch.float64).softmax(-1)
    stem = projector.first["m"]
    assert stem.grid == (6, 6)  # not CLIP's: what is resampled comes before the GELU
    hidden = {
        "a": resample_tokens(projector.first["a"](tokens["a"]), (3, 3), (4, 4)),
        "m": resample_tokens(stem(tokens["m"]), stem.grid, (4, 4)),
    }
    naive = sum(
        gates[..., k : k + 1] * projector.shared(F.gelu(hidden[slot]))
        for k, slot in enumerate(grids)
    )
    torch.testing.assert_close(projector.mix(gates, list(grids), tokens), naive, atol=1e-10, rtol=0)


def test_a_map_experts_stem_trains_and_is_matched_by_the_baseline(with_map, batch):
    model = with_map().train()
    stem = model.projector.first["edges"]
    assert isinstance(stem, MapStem)
    before = stem.stages[0][1].running_mean.clone()
    sum(model(**batch, mode="loss").values()).backward()
    torch.optim.SGD(model.projector.parameters(), lr=0.1).step()
    assert all(p.grad is not None and p.grad.any() for p in stem.parameters())
    assert not torch.equal(stem.stages[0][1].running_mean, before)
    baseline = with_map(kind="MatchedBaseline")
    one_hidden_unit = baseline.encoder.width + baseline.language.width + 1
    trained, _ = count_parameters(model)
    assert abs(count_parameters(baseline)[0] - trained) <= one_hidden_unit / 2


def test_all_detached_is_plain_clip_bit_for_bit(with_map, make_model, batch):
    model = with_map().eval()
    fused = model.fuse(batch["images"]).t_fuse
    for slot in model.slots:
        model.hub.detach(slot)
    alone = model.fuse(batch["images"]).t_fuse
    assert torch.equal(alone, make_model(kind="PlainCLIP").eval().fuse(batch["images"]).t_fuse)
    assert not torch.equal(alone, fused)


def test_an_absent_maps_stem_does_not_run(with_map, batch):
    model = with_map(expert_dropout=1.0).train()
    stem = model.projector.first["edges"]
    ran = []
    stem.register_forward_hook(lambda *_: ran.append(True))
    torch.manual_seed(0)
    for _ in range(12):
        ran.clear()
        steps = int(stem.stages[0][1].num_batches_tracked)
        absent = model.fuse(batch["images"]).absent
        assert bool(ran) == ("edges" not in absent)
        assert int(stem.stages[0][1].num_batches_tracked) == steps + bool(ran)
    model.eval().hub.detach("edges")
    ran.clear()
    model.fuse(batch["images"])
    assert not ran


def test_checkpoint_round_trip_and_the_slim_one_without_the_stem(with_map, experts, batch):
    source = with_map(seed=1).train()
    source.fuse(batch["images"])  # moves the running statistics, which must be kept
    target = with_map(seed=2)
    target.load_trainable(source.state_dict())
    name = "projector.first.edges.stages.0.1.running_mean"
    assert source.state_dict()[name].any()
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key
    source.eval().hub.detach("edges")
    slim = source.slim_state_dict()
    assert not any("edges" in key for key in slim)
    without = with_map(seed=3, detached=["edges"]).eval()
    for slot in experts:
        without.hub.experts[slot].load_state_dict(source.hub.experts[slot].state_dict())
    without.language.body = source.language.body
    without.load_trainable(slim)
    assert set(without.state_dict()) == set(slim)
    assert torch.equal(without.fuse(batch["images"]).t_fuse, source.fuse(batch["images"]).t_fuse)
    assert count_parameters(without)[0] < count_parameters(source)[0]


def test_maps_are_cached_and_merged_like_other_tokens(with_map, batch):
    plain = with_map().eval()
    cached = with_map(token_cache={"max_gb": 1e-3}).eval()
    ids = [sample["image_id"] for sample in batch["data_samples"]]
    expected = plain.fuse(batch["images"]).t_fuse
    for _ in range(2):
        torch.testing.assert_close(cached.fuse(batch["images"], ids).t_fuse, expected)
    assert cached.hub.forward_counts["edges"] == 1
    merge = Merge(plain).train()
    state = plain.projector.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    merge(**batch, mode="loss")["loss_merge"].backward()
    assert all(torch.equal(state[key], value) for key, value in before.items())


def test_runs_in_bfloat16_and_on_meta(with_map, batch):
    model = with_map().train()
    assert model.bfloat16().fuse(batch["images"]).t_fuse.dtype == torch.bfloat16
    fused = with_map().train().to("meta").fuse(batch["images"].to("meta"))
    assert fused.t_fuse.shape == (3, 16, 20)


def test_single_process_is_torchs_batch_norm():
    ours, theirs = GlobalBatchNorm(5), nn.BatchNorm2d(5)
    maps = torch.randn(3, 5, 4, 4)
    for mode in (True, False):
        ours.train(mode)
        theirs.train(mode)
        assert torch.equal(ours(maps), theirs(maps))
    assert torch.equal(ours.running_var, theirs.running_var)


RANK = """
import sys, torch, torch.distributed as dist
from tove.modules.map_stem import MapStem
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", f"file://{path}/store", rank=rank, world_size=2)
torch.manual_seed(0)
maps = 3 + torch.randn(3, 256, 1)  # the two ranks' parts differ in size
stem = MapStem(1, (16, 16), (4, 4), 16)
own = maps[:1] if rank == 0 else maps[1:]
stem(own).square().sum().backward()
grads = [p.grad.clone() for p in stem.parameters()]
for grad in grads:
    dist.all_reduce(grad)
torch.save((grads, list(stem.buffers())), f"{path}/rank{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_give_the_gradients_and_statistics_of_one(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)], env=environment)
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    torch.manual_seed(0)
    maps = 3 + torch.randn(3, 256, 1)
    stem = MapStem(1, (16, 16), (4, 4), 16)
    stem(maps).square().sum().backward()
    for rank in range(2):
        grads, buffers = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        for found, parameter in zip(grads, stem.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.grad, atol=1e-4, rtol=1e-4)
        for found, buffer in zip(buffers, stem.buffers(), strict=True):
            torch.testing.assert_close(found, buffer)
