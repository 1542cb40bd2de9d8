"""Checks of the built expert that hold wherever its tokens lie.

Shapes: B batch, N = h * w tokens, D width.
"""

import socket
from unittest.mock import patch

import torch
from torch import Tensor

from tove_plugins.testing._registry import SkipCheck, expert_check, fail
from tove_plugins.testing._subject import Subject, run_as_core

__all__: list[str] = []

RELATIVE_TOLERANCE = 1e-4  # of the largest token entry: batched kernels differ by rounding only


def _difference(one_BND: Tensor, other_BND: Tensor) -> float:
    """Give the largest difference, relative to the largest entry."""
    one_BND, other_BND = one_BND.detach(), other_BND.detach()
    scale = max(float(one_BND.abs().max()), 1e-12)
    return float((one_BND - other_BND).abs().max()) / scale


@expert_check("built")
def check_offline_build(subject: Subject) -> None:
    """The small build runs in tests and on machines without a network."""
    if subject.rebuild is None:
        raise SkipCheck("A built module was given.")

    def refuse(*_: object, **__: object) -> None:
        fail("Building its small form opens a network connection; `tiny` must need none.")

    with (
        patch.object(socket.socket, "connect", refuse),
        patch.object(socket, "getaddrinfo", refuse),
    ):
        subject.build()


@expert_check("built")
def check_shape_and_grid(subject: Subject) -> None:
    """The projector is made from the declared width and grid before any expert is built."""
    tokens = run_as_core(subject.fresh(), subject.images(2))
    if not isinstance(tokens, Tensor):
        fail(f"It gives a {type(tokens).__name__}; give one tensor of tokens.")
    spec = subject.spec.tokens
    declared = (2, spec.num_tokens, spec.width)
    if tuple(tokens.shape) != declared:
        hint = ""
        if tokens.ndim == 3 and tokens.shape[1] > spec.num_tokens:
            extra = tokens.shape[1] - spec.num_tokens
            hint = f" {extra} more than the grid holds: class or register tokens must be dropped."
        elif tokens.ndim == 4:
            hint = " Flatten the map: .flatten(2).transpose(1, 2)."
        elif tokens.ndim == 3 and tokens.shape[1:] == (spec.width, spec.num_tokens):
            hint = " Width and tokens are swapped: .transpose(1, 2)."
        fail(f"Two images give {tuple(tokens.shape)}, the spec declares {declared}.{hint}")


@expert_check("built")
def check_dtype_follows(subject: Subject) -> None:
    """The core casts experts to save memory; an expert with a dtype of its own breaks the run."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tokens = run_as_core(subject.fresh(dtype), subject.images(2).to(dtype))
        if tokens.dtype != dtype:
            fail(f"Cast to {dtype}, with images of that dtype, it gives {tokens.dtype}.")
        if not tokens.isfinite().all():
            fail(f"In {dtype} its tokens are not finite.")


@expert_check("built")
def check_device_follows(subject: Subject) -> None:
    """A tensor kept outside parameters and buffers stays behind when the expert is moved."""
    if torch.cuda.is_available():
        target = torch.device("cuda")
    else:
        target = torch.device("meta")  # tells devices apart on any machine, without data
    expert, images = subject.fresh().to(target), subject.images(2).to(target)
    try:
        tokens = run_as_core(expert, images)
    except NotImplementedError as error:
        raise SkipCheck(f"No accelerator here, and its forward needs data: {error}") from error
    except RuntimeError as error:
        if target.type == "meta" and "item()" in str(error):
            raise SkipCheck(f"No accelerator here, and its forward needs data: {error}") from error
        fail(
            f"Moved to another device it raises {type(error).__name__}: {error}. Register constant "
            "tensors with register_buffer()."
        )
    if tokens.device.type != target.type:
        fail(f"Images on {target} give tokens on {tokens.device}.")


@expert_check("built")
def check_no_grad(subject: Subject) -> None:
    """Tokens feed trained layers: they carry no graph and must be ordinary tensors."""
    tokens = run_as_core(subject.fresh(), subject.images(1), copied=False)
    if tokens.requires_grad:
        fail("Called under no_grad its tokens require grad; leave the grad mode to the core.")
    if tokens.is_inference():
        fail(
            "Its tokens are inference tensors, which no trained layer can take; use no_grad "
            "instead of inference_mode, or nothing."
        )


@expert_check("built")
def check_eval_behaviour(subject: Subject) -> None:
    """Trainers call .train() every epoch; a frozen expert must not change by it."""
    expert, images = subject.fresh(), subject.images(4)
    before = run_as_core(expert, images)
    expert.train()
    state = {name: value.clone() for name, value in expert.state_dict().items()}
    after = run_as_core(expert, images)  # as the hub: eval mode again
    if _difference(before, after) > RELATIVE_TOLERANCE:
        fail("After .train() and .eval() it gives other tokens; a module does not follow .eval().")
    changed = [n for n, v in expert.state_dict().items() if not torch.equal(v, state[n])]
    if changed:
        fail(f"A forward in eval mode changes its state ({', '.join(changed[:3])}).")


@expert_check("built")
def check_batch_independence(subject: Subject) -> None:
    """Cached tokens and evaluation at another batch size are the same only then."""
    expert, images = subject.fresh(), subject.images(4)
    together = run_as_core(expert, images)
    apart = torch.cat([run_as_core(expert, image[None]) for image in images])
    if together.shape != apart.shape:
        fail(f"A batch of 4 gives {tuple(together.shape)}, 4 of 1 give {tuple(apart.shape)}.")
    difference = _difference(together, apart)
    if difference > RELATIVE_TOLERANCE:
        fail(
            f"A batch of 4 and the same 4 one by one differ by {difference:.1e} of the largest "
            "entry; something looks across the batch (batch statistics, attention over axis 0)."
        )


@expert_check("built")
def check_deterministic(subject: Subject) -> None:
    """Tokens are cached and experiments repeated: the same image must give the same tokens."""
    expert, images = subject.fresh(), subject.images(2)
    if not torch.equal(run_as_core(expert, images), run_as_core(expert, images)):
        fail("Two calls on the same images differ; some randomness is active in eval mode.")
    if subject.rebuild is None:
        return
    rebuilt = subject.build().to(subject.device, torch.float32)
    if not torch.equal(run_as_core(subject.fresh(), images), run_as_core(rebuilt, images)):
        fail("Two builds from one seed differ; draw initial weights from torch's generator.")


@expert_check("built")
def check_finite(subject: Subject) -> None:
    """One black photograph must not turn a run's loss into NaN."""
    expert = subject.fresh()
    ones = torch.ones(1, 3, *subject.spec.image.size)
    for name, pixels in (("black", 0 * ones), ("white", ones), ("grey", 0.5 * ones)):
        if not run_as_core(expert, subject.normalise(pixels)).isfinite().all():
            fail(f"A {name} image gives tokens that are not finite.")
    if not run_as_core(expert, subject.images(2)).isfinite().all():
        fail("An image of noise gives tokens that are not finite.")


@expert_check("built")
def check_input_layout(subject: Subject) -> None:
    """The core hands over views and last batches of odd size, and uses the images again."""
    expert, images = subject.fresh(), subject.images(3)
    kept = images.clone()
    expected = run_as_core(expert, images, copied=False)
    if not torch.equal(images, kept):
        fail("Its forward changes the images in place; other experts get the same tensor.")
    views = {
        "channels-last": images.to(memory_format=torch.channels_last),
        "strided": images.repeat_interleave(2, dim=3)[..., ::2],
    }
    for name, view in views.items():
        if _difference(expected, run_as_core(expert, view, copied=False)) > RELATIVE_TOLERANCE:
            fail(f"A {name} image gives other tokens; do not read its memory by .view().")


@expert_check("built")
def check_output_not_reused(subject: Subject) -> None:
    """The core keeps tokens of several batches: each call must give a tensor of its own."""
    expert = subject.fresh()
    first = run_as_core(expert, subject.images(2, seed=1), copied=False)
    kept = first.clone()
    run_as_core(expert, subject.images(2, seed=2), copied=False)
    if not torch.equal(first, kept):
        fail("A second call overwrites the tokens of the first; do not return a kept buffer.")


@expert_check("built")
def check_state_dict_stable(subject: Subject) -> None:
    """Provenance and loading by name need the same parameters before and after a forward."""
    expert = subject.fresh()
    before = list(expert.state_dict())
    run_as_core(expert, subject.images(1))
    if list(expert.state_dict()) != before:
        fail("A forward adds or removes entries of its state_dict; build all of it at once.")
