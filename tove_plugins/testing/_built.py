"""Checks of the built expert that hold wherever its tokens lie.

Shapes: B batch, N = h * w tokens, D width.
"""

import torch
from torch import Tensor

from tove_plugins.testing._network import refused_network
from tove_plugins.testing._registry import SkipCheck, expert_check, fail
from tove_plugins.testing._subject import Subject, run_as_core

__all__ = ["RELATIVE_TOLERANCE", "relative_difference"]

RELATIVE_TOLERANCE = 1e-4  # of the largest token entry: batched kernels differ by rounding only


def relative_difference(one_BND: Tensor, other_BND: Tensor) -> float:
    """Give the largest difference, relative to the largest entry."""
    one_BND, other_BND = one_BND.detach(), other_BND.detach()
    scale = max(float(one_BND.abs().max()), 1e-12)
    return float((one_BND - other_BND).abs().max()) / scale


@expert_check("built")
def check_offline_build(subject: Subject) -> None:
    """The small build runs in tests and on machines without a network.

    The expert is built and called while every attempt to reach the network from Python, or by a
    command that fetches, is refused; one that it catches counts as well.

    Mend: Give `tiny` options that make a random network, and fetch nothing in the factory or
    the forward; the weights arrive as a path.
    """
    if subject.rebuild is None:
        raise SkipCheck("A built module was given.")
    with refused_network() as attempts:
        try:
            run_as_core(subject.build().to(subject.device), subject.images(1))
        except Exception:
            if not attempts:  # otherwise they are the cause, or what to mend first
                raise
    if attempts:
        fail(
            f"Its small form uses the network, with or without success: it wants {attempts[0]}; "
            "`tiny` must need none."
        )


@expert_check("built")
def check_shape_and_grid(subject: Subject) -> None:
    """The projector is made from the declared width and grid before any expert is built.

    Two images must give one tensor [2, rows * columns, width] as the spec's `tokens` say. If it
    does not, the other checks of the built expert are skipped.

    Mend: Drop class and register tokens, flatten a map by `.flatten(2).transpose(1, 2)`, or correct
    the spec.
    """
    tokens = subject.tokens(2)
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
    """The core casts experts to save memory; an expert with a dtype of its own breaks the run.

    Cast to bfloat16 and to float64, with images of that dtype, it must give finite tokens of that
    dtype; in float32 as well.

    Mend: Make constants with `.to(images.dtype)` or `register_buffer`, and call neither `.float()`
    nor `.half()` on what is returned.
    """
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        if dtype == torch.float32:
            tokens = subject.tokens(2)
        else:
            tokens = run_as_core(subject.fresh(dtype), subject.images(1).to(dtype))
        if tokens.dtype != dtype:
            fail(f"Cast to {dtype}, with images of that dtype, it gives {tokens.dtype}.")
        if not tokens.isfinite().all():
            fail(f"In {dtype} its tokens are not finite.")


@expert_check("built")
def check_device_follows(subject: Subject) -> None:
    """A tensor kept outside parameters and buffers stays behind when the expert is moved.

    Expert and images are moved to the GPU where there is one, otherwise to PyTorch's `meta` device,
    which tells devices apart on any machine. A forward that needs the values cannot run there, nor
    can TorchScript; they are skipped.

    Mend: Register constant tensors with `register_buffer`, and make new ones on `images.device`.
    """
    if torch.cuda.is_available():
        target = torch.device("cuda")
    else:
        target = torch.device("meta")  # tells devices apart on any machine, without data
    expert = subject.fresh()
    if target.type == "meta" and any(
        isinstance(m, torch.jit.ScriptModule) for m in expert.modules()
    ):
        raise SkipCheck("No accelerator here, and TorchScript does not run without one's data.")
    expert, images = expert.to(target), subject.images(2).to(target)
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
    """Tokens feed trained layers: they carry no graph and must be ordinary tensors.

    Called as the core calls it, under `no_grad`, the tokens must neither require grad nor be
    inference tensors.

    Mend: Leave the grad mode to the core: no `enable_grad`, no `inference_mode`.
    """
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
    """Trainers call .train() every epoch; a frozen expert must not change by it.

    The tokens after `.train()` and `.eval()` must be those before, and a forward in eval mode must
    leave the state as it was.

    Mend: Keep networks as submodules, so that `.eval()` reaches them; pass `self.training` to
    functional dropout; keep no counters in buffers.
    """
    expert = subject.fresh()
    before = run_as_core(expert, subject.images(2))
    expert.train()
    state = {name: value.clone() for name, value in expert.state_dict().items()}
    after = run_as_core(expert, subject.images(2))  # as the hub: eval mode again
    if relative_difference(before, after) > RELATIVE_TOLERANCE:
        fail("After .train() and .eval() it gives other tokens; a module does not follow .eval().")
    changed = [n for n, v in expert.state_dict().items() if n in state and not v.equal(state[n])]
    if changed:
        fail(f"A forward in eval mode changes its state ({', '.join(changed[:3])}).")


@expert_check("built")
def check_batch_independence(subject: Subject) -> None:
    """Cached tokens and evaluation at another batch size are the same only then.

    Four images of unlike brightness and contrast, a nearly black and a nearly flat one among them,
    must give the same tokens one by one as in a batch of seven, up to rounding.

    Mend: Take no mean, extreme, norm or attention over axis 0, nor of the whole batch (`x.max()`);
    put batch norms in eval mode.
    """
    expert, images = subject.fresh(), subject.unlike_images()
    # An odd number, so that an expert that halves its batch is found as well.
    images = torch.cat([images, images[:3]])
    together = run_as_core(expert, images)
    apart = torch.cat([run_as_core(expert, image[None]) for image in images[:4]])
    apart = torch.cat([apart, apart[:3]])
    if together.shape != apart.shape:
        fail(f"A batch of 7 gives {tuple(together.shape)}, 7 of 1 give {tuple(apart.shape)}.")
    difference = relative_difference(apart, together)
    if not difference <= RELATIVE_TOLERANCE:
        fail(
            f"A batch of 7 and the same images one by one differ by {difference:.1e} of the "
            "largest entry; something looks across the batch (batch statistics, the extremes of "
            "the whole batch, attention over axis 0)."
        )


@expert_check("built")
def check_deterministic(subject: Subject) -> None:
    """Tokens are cached and experiments repeated: the same image must give the same tokens.

    Two calls on the same image must agree to the last bit, and so must two builds from one seed.

    Mend: Draw initial weights from PyTorch's generator, and nothing at random in a forward.
    """
    expert, images = subject.fresh(), subject.images(1)
    first = run_as_core(expert, images)
    if not torch.equal(first, run_as_core(expert, images)):
        fail("Two calls on the same images differ; some randomness is active in eval mode.")
    if subject.rebuild is None:
        return
    rebuilt = subject.build().to(subject.device, torch.float32)
    if not torch.equal(first, run_as_core(rebuilt, images)):
        fail("Two builds from one seed differ; draw initial weights from torch's generator.")


@expert_check("built")
def check_finite(subject: Subject) -> None:
    """One black photograph must not turn a run's loss into NaN.

    A black, a white, a grey image and noise must give finite tokens.

    Mend: Add an epsilon where the expert divides by what an image has none of, contrast say.
    """
    ones = torch.ones(1, 3, *subject.spec.image.size)
    plain = torch.cat([0 * ones, ones, 0.5 * ones])
    tokens = run_as_core(subject.fresh(), subject.normalise(plain))
    for name, of_one in zip(("black", "white", "grey"), tokens, strict=True):
        if not of_one.isfinite().all():
            fail(f"A {name} image gives tokens that are not finite.")
    if not subject.tokens(2).isfinite().all():
        fail("An image of noise gives tokens that are not finite.")


@expert_check("built")
def check_input_layout(subject: Subject) -> None:
    """The core hands over views, and uses the images again for the next expert.

    The images must be as before after a forward, and the same images in channels-last memory, or
    as a strided view, must give the same tokens.

    Mend: Use `.reshape` rather than `.view` or `as_strided`, and no in-place operation on the
    images.
    """
    expert, images = subject.fresh(), subject.images(2)
    before = run_as_core(expert, images)
    views = {
        "contiguous": images.clone(),
        "channels-last": images.to(memory_format=torch.channels_last),
        "strided": images.repeat_interleave(2, dim=3)[..., ::2],
    }
    for name, view in views.items():
        tokens = run_as_core(expert, view, copied=False)
        if not torch.equal(images, view):
            fail("Its forward changes the images in place; other experts get the same tensor.")
        if relative_difference(before, tokens) > RELATIVE_TOLERANCE:
            fail(f"A {name} image gives other tokens; do not read its memory by .view().")


@expert_check("built")
def check_output_not_reused(subject: Subject) -> None:
    """The core keeps tokens of several batches: each call must give a tensor of its own.

    The tokens of a first call must be the same after a second call on other images.

    Mend: Return a new tensor, or a `.clone()` of what is kept.
    """
    expert = subject.fresh()
    first = run_as_core(expert, subject.images(1, seed=1), copied=False)
    kept = first.clone()
    run_as_core(expert, subject.images(1, seed=2), copied=False)
    if not torch.equal(first, kept):
        fail("A second call overwrites the tokens of the first; do not return a kept buffer.")


@expert_check("built")
def check_state_dict_stable(subject: Subject) -> None:
    """Provenance and loading by name need the same parameters before and after a forward.

    A forward must neither add nor remove an entry of the expert's `state_dict`.

    Mend: Build every layer in `__init__`.
    """
    expert = subject.fresh()
    before = list(expert.state_dict())
    run_as_core(expert, subject.images(1))
    if list(expert.state_dict()) != before:
        fail("A forward adds or removes entries of its state_dict; build all of it at once.")
