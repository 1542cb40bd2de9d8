"""Means over the processes of a run, without a process group."""

import pytest
import torch

from tove.modules import collectives


@pytest.mark.parametrize(("numbers", "sums"), [([1, 0, 0, 0], [3, 0, 0, 0]), ([2, 5], [1, 4])])
def test_the_ranks_means_average_to_the_mean_over_all(numbers, sums, monkeypatch):
    ranks = len(numbers)
    monkeypatch.setattr(collectives, "num_ranks", lambda: ranks)
    monkeypatch.setattr(collectives, "_summed", lambda _: torch.tensor(float(sum(numbers))))
    means = [
        collectives.global_mean(torch.tensor(float(total)), torch.tensor(float(number))).item()
        for total, number in zip(sums, numbers, strict=True)
    ]
    assert sum(means) / ranks == pytest.approx(sum(sums) / sum(numbers))


def test_what_no_rank_counts_is_zero():
    assert collectives.global_mean(torch.tensor(0.0), torch.tensor(0.0)).item() == 0
