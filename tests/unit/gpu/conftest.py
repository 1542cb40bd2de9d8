"""The device: a GPU where there is one. Without it the same tests run on the CPU."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture
def never_waits(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """Give a context in which an operation that makes the host wait for the GPU raises."""

    @contextmanager
    def context() -> Iterator[None]:
        if device.type == "cpu":
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return context


@pytest.fixture
def language(miniature: Path) -> Any:
    from tove.backbones.language.causal_lm import CausalLanguageModel

    adapters = dict(type="bottleneck", width=4)
    return CausalLanguageModel(str(miniature / "lm"), adapters=adapters)
