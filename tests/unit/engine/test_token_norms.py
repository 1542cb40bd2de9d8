"""Statistics of experts' tokens: of which samples, for which slots, the same whatever the ranks."""

import pytest
import torch

from tove.data.collate import tove_collate
from tove.engine import drawn_batches, token_norms
from tove.engine.token_norms import fit_token_norms
from tove.errors import ConfigError


class Images(torch.utils.data.Dataset):
    def __init__(self, number):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (number, 3, 16, 16), generator=generator).byte()
        self.asked = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.asked.append(index)
        return {"image": self.images[index], "sample": {"image_id": str(index)}}


def loader_of(number=40, collate=tove_collate):
    return torch.utils.data.DataLoader(Images(number), batch_size=7, collate_fn=collate)


def statistics(model):
    return {n: t.clone() for n, t in model.state_dict().items() if ".norm." in n}


def same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor)


def test_tokens_of_the_training_s_images_are_brought_to_one_scale(make_model):
    model, loader = make_model(token_norm="standardise"), loader_of()
    fit_token_norms(model, loader, seed=0)
    tokens = model.hub(loader.dataset.images / 255)
    for tokens_BMD in tokens.values():
        flat_TD = tokens_BMD.flatten(0, 1)
        assert flat_TD.mean(0).abs().max() < 1e-4
        assert (flat_TD.std(0, correction=0) - 1).abs().max() < 1e-3
    assert sorted(loader.dataset.asked) == list(range(40))


def test_a_large_set_is_sampled_the_same_at_every_call(make_model, monkeypatch):
    monkeypatch.setattr(token_norms, "_SAMPLES", 12)
    asked = []
    for seed in (3, 3, 4):
        loader = loader_of()
        fit_token_norms(make_model(token_norm="standardise"), loader, seed)
        asked.append(loader.dataset.asked)
    assert len(set(asked[0])) == 12
    assert asked[0] == asked[1] != asked[2]


def test_ranks_share_the_sample_and_get_the_same(make_model, monkeypatch):
    alone = make_model(token_norm="standardise")
    fit_token_norms(alone, loader_of(), seed=0)
    parts = []
    monkeypatch.setattr("tove.backbones.experts.hub.num_ranks", lambda: 3)
    for rank in (0, 1, 2):
        monkeypatch.setattr(drawn_batches, "get_dist_info", lambda rank=rank: (rank, 3))
        own = []
        monkeypatch.setattr(
            "tove.backbones.experts.hub.sum_over_ranks", lambda x, own=own: own.append(x) or x
        )
        fit_token_norms(make_model(token_norm="standardise"), loader_of(), seed=0)
        parts.append(own)
    sums = [torch.stack(of_slot).sum(0) for of_slot in zip(*parts, strict=True)]
    together, whole = make_model(token_norm="standardise"), iter(sums)
    monkeypatch.setattr("tove.backbones.experts.hub.sum_over_ranks", lambda x: next(whole))
    fit_token_norms(together, loader_of(), seed=0)
    same(statistics(alone), statistics(together))


def test_all_ranks_have_as_many_batches_where_they_work_together(monkeypatch):
    counts = []
    for rank in (0, 1, 2):
        monkeypatch.setattr(drawn_batches, "get_dist_info", lambda rank=rank: (rank, 3))
        model = torch.nn.Identity()
        model.data_preprocessor = torch.nn.Identity()
        drawn = drawn_batches.drawn_batches(model, loader_of(22), 0, 100, even=True)
        counts.append([len(batch["images"]) for batch in drawn])
    assert counts == [[7]] * 3  # 21 of 22


def test_a_slot_that_goes_on_keeps_what_it_was_trained_with(make_model):
    model = make_model(token_norm="standardise")
    before = statistics(model)
    fit_token_norms(model, loader_of(), seed=0, kept=["fine"])
    changed = {n for n, t in statistics(model).items() if not torch.equal(t, before[n])}
    assert changed == {"hub.experts.coarse.norm.scale", "hub.experts.coarse.norm.shift"}


def test_nothing_is_read_where_nothing_is_fitted(make_model):
    for model in (make_model(token_norm="none"), make_model(kind="PlainCLIP"), torch.nn.Identity()):
        loader = loader_of()
        fit_token_norms(model, loader, seed=0)
        assert loader.dataset.asked == []


def test_a_training_of_texts_alone_is_a_sentence(make_model):
    def texts(batch):
        return {"images": torch.zeros(0, 3, 16, 16), "data_samples": batch}

    with pytest.raises(ConfigError, match=r"model\.token_norm='none'"):
        fit_token_norms(make_model(token_norm="standardise"), loader_of(collate=texts), seed=0)
