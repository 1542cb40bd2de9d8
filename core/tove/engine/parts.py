"""The parts of a model, told by the names of its modules, and when each of them runs.

A part's calls are those of its modules that no other module of the model calls: whatever such a
call runs in its turn is the part's too. The model itself is no part; what it does between calls,
such as the mixing of tokens, is the rest.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import nn

__all__ = ["REST", "part_of", "watched_parts"]

REST = "in between"

Mark = TypeVar("Mark")


def part_of(model: nn.Module, name: str) -> str:
    """Return the part that a module or parameter of a model belongs to.

    Args:
        model: a method's, or one around it.
        name: within the model.
    """
    own: Callable[[str], str] | None = getattr(model, "part_of", None)
    if own is not None:
        return own(name)
    head, _, rest = name.partition(".")
    child = getattr(model, head, None)
    if rest and hasattr(child, "part_of"):
        return f"{head}: {part_of(child, rest)}"  # type: ignore[arg-type]
    return head


@contextmanager
def watched_parts(
    model: nn.Module, begin: Callable[[], Mark], end: Callable[[str, Mark], None]
) -> Iterator[None]:
    """Be told of every call of a part in the model's forward pass, while it is on.

    What checkpointing computes again in the backward pass is none.

    Args:
        model: whose parts are watched.
        begin: called as a part's call begins; what it returns goes to `end`.
        end: called with the part's name as the call ends.
    """
    calls: list[Any] = []  # of the modules that run, outermost first
    runs = False

    def start(module: nn.Module, inputs: Any) -> None:  # noqa: ANN401
        nonlocal runs
        runs = True

    def stop(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401
        nonlocal runs
        runs = False

    def enter(module: nn.Module, inputs: Any) -> None:  # noqa: ANN401
        calls.append(None if calls or not runs else begin())

    def leave(part: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401
            mark = calls.pop()
            if not calls and runs:
                end(part, mark)

        return hook

    handles = [model.register_forward_pre_hook(start), model.register_forward_hook(stop)]
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave(part_of(model, name))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
