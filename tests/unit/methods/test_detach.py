"""The experts' ranking: every image of the validation split counts once."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tove.errors import ConfigError
from tove.methods.tove import gate_ranking

Sample = dict[str, Any]
# An image's first pixel is the gate weight of the first of two slots.
WEIGHTS = {"a": 0.1, "b": 0.2, "c": 0.9}


def batch(*names: str, **entries: Any) -> dict[str, Any]:
    images = torch.tensor([WEIGHTS[name] for name in names]).view(-1, 1, 1, 1)
    samples: list[Sample] = [dict(image_id=name, **entries) for name in names]
    return dict(images=images, data_samples=samples)


class Gate:
    """A model of two slots that weighs an image by its first pixel, noisily until it is in eval.

    Tokens differ: what counts is an image's mean over them.
    """

    training = True
    hub = SimpleNamespace(slots=("first", "second"))

    def eval(self) -> None:
        self.training = False

    def data_preprocessor(self, data: dict, training: bool) -> dict:
        assert not training
        return data

    def gate_weights(self, images: torch.Tensor, ids: list[str]) -> torch.Tensor:
        assert not self.training, "a gate in training is noisy"
        assert len(images) == len(ids) == len(set(ids))
        first_BN = images.flatten(1) + torch.tensor([-0.05, 0.05, -0.02, 0.02])
        return torch.stack([first_BN, 1 - first_BN], dim=-1)


def mean_weight(*batches: dict[str, Any]) -> float:
    model: Any = Gate()
    # The test split is for scores alone: whoever ranks on it has no batches here.
    splits = {"val_dataloader": batches, "test_dataloader": ()}
    context: Any = SimpleNamespace(evaluation_loader=splits.__getitem__)
    weights = gate_ranking.mean_gate_weights(context, model)
    assert sum(weights.values()) == pytest.approx(1)
    return weights["first"]


def test_an_image_with_several_samples_counts_once():
    assert mean_weight(batch("a", "a", "b"), batch("b"), batch("c", "a")) == pytest.approx(0.4)


def test_a_sample_that_stands_in_for_an_unreadable_image_does_not_count():
    assert mean_weight(batch("a", "b"), batch("c", skipped=True)) == pytest.approx(0.15)


def test_what_the_sampler_repeats_on_another_process_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
):
    shares = [[batch("a", "c")], [batch("b", "a")]]  # padded to as many on each

    def gather_first(means: dict) -> list[dict]:
        gathered.append(means)
        return [means]

    gathered: list[dict] = []
    monkeypatch.setattr(gate_ranking, "all_gather_object", gather_first)
    for share in shares:
        mean_weight(*share)
    monkeypatch.setattr(gate_ranking, "all_gather_object", lambda means: gathered)
    for share in shares:
        assert mean_weight(*share) == pytest.approx(0.4)


def test_a_split_without_a_readable_image_is_told():
    with pytest.raises(ConfigError, match="no image that can be read"):
        mean_weight(batch("a", "b", skipped=True))
