"""A part is told of once for each call of the model's, whatever the call runs in its turn."""

import torch
from torch import nn

from tove.engine.parts import watched_parts


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
        self.head = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x)) + self.head(x)


def test_what_a_part_calls_in_its_turn_is_not_told_and_neither_is_a_call_from_outside():
    model, told, begun = Nested(), [], []

    def begin() -> int:
        begun.append(len(begun))
        return begun[-1]

    with watched_parts(model, begin, lambda part, mark: told.append((part, mark))):
        model(torch.ones(1, 2))
        model.encoder(torch.ones(1, 2))  # as checkpointing does in the backward pass
    assert told == [("encoder", 0), ("head", 1), ("head", 2)]
    model(torch.ones(1, 2))
    assert len(told) == 3
