"""What a MoLE layer costs over the plain FFN, at ViT-L's size.

Forms: sorted and mask (`tove.methods.move_kd.mole`), and naive: a loop over the experts, each of
which gathers its tokens and adds to what autograd keeps. "auto" is what a model runs on the device.
Rows: forward without gradients; forward and backward with the FFN trained, and with it frozen as
in the first stage; both with and without the dropout of training.

    python benchmarks/mole_layer.py [--device cuda] [--dtype bfloat16] [--images 2] [--rounds 9]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import frame
from frame import Claim, Work

if TYPE_CHECKING:
    import torch

    from tove.methods.move_kd.mole import MoLE

GOAL = 1.10
WHY = (
    "the pairs' operations alone are 4 % of the FFN's, 6 % where that is frozen, on matrices 32 "
    "wide, and each reads or writes the hidden states once more"
)
WIDTH, POSITIONS = 1024, 577
ROWS = (  # words, with a backward pass, the FFN trains, dropout
    ("forward, eval", False, True, False),
    ("forward + backward", True, True, False),
    ("forward + backward, dropout .05", True, True, True),
    ("forward + backward, FFN frozen", True, False, False),
    ("forward + backward, FFN frozen, dropout .05", True, False, True),
)


def naive(mole: MoLE, x_BPD: torch.Tensor) -> torch.Tensor:
    """Run every expert on its own tokens, each layer's result put together by index."""
    import torch

    fc1, act, fc2 = mole.layers()
    x_TD = x_BPD.flatten(0, 1)
    expert_T = mole.route(x_TD).argmax(-1)

    def layer(linear: torch.nn.Module, pairs: torch.nn.Module, x_TI: torch.Tensor) -> torch.Tensor:
        y_TO = linear(x_TI)
        added_TO = torch.zeros_like(y_TO)
        for e in range(len(pairs.A)):
            index = torch.where(expert_T == e)[0]
            u_nR = mole._drop(x_TI[index]) @ pairs.A[e].T + pairs.A_bias[e]
            added_TO[index] = (u_nR @ pairs.B[e] + pairs.B_bias[e]) * mole.scale
        return y_TO + added_TO

    h_TH = act(layer(fc1, mole.down, x_TD))
    return layer(fc2, mole.up, h_TH).view_as(x_BPD)


def make_layer(device: Any, dtype: Any, shape: Sequence[int]) -> tuple[Any, ...]:  # noqa: ANN401
    """Return the FFN, MoLE around it, and an input [B, P, D]."""
    import torch
    from transformers import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPMLP

    from tove.methods.move_kd.mole import MoLE

    sizes = dict(hidden_size=shape[-1], intermediate_size=4 * shape[-1], num_attention_heads=1)
    ffn = CLIPMLP(CLIPVisionConfig(**sizes))
    mole = MoLE(ffn).to(device, dtype)
    x_BPD = torch.randn(shape, device=device, dtype=dtype)
    return ffn, mole, x_BPD.requires_grad_()


def works(
    ffn: Any,  # noqa: ANN401 - torch's
    mole: MoLE,
    x_BPD: torch.Tensor,
    backward: bool,
    forms: Sequence[str],
) -> dict[str, Work]:
    """Return a pass of each form."""
    import torch

    cotangent = torch.randn_like(x_BPD)

    def run(form: str) -> torch.Tensor:
        if form in ("plain", "naive"):
            return ffn(x_BPD) if form == "plain" else naive(mole, x_BPD)
        mole.form = form
        return mole(x_BPD)

    def forward(form: str) -> None:
        with torch.no_grad():
            run(form)

    def step(form: str) -> None:
        mole.zero_grad(set_to_none=True)
        x_BPD.grad = None
        run(form).backward(cotangent)

    chosen = step if backward else forward
    return {form: lambda form=form: chosen(form) for form in forms}


def measure(
    made: tuple[Any, ...],
    rounds: int,
    rows: Sequence[tuple[str, bool, bool, bool]] = ROWS,
    **clock: Any,  # noqa: ANN401 - of `frame.in_turns`
) -> list[Claim]:
    """Return the ratios to the plain FFN; the goal is for what a model runs."""
    ffn, mole, x_BPD = made
    other = "mask" if x_BPD.device.type == "cpu" else "sorted"  # "auto" is the one that suits
    forms, claims = ("plain", "auto", other, "naive"), []
    for words, backward, trained, dropout in rows:
        ffn.requires_grad_(trained)
        mole.train(dropout)
        own = works(ffn, mole, x_BPD, backward, forms)
        times = frame.in_turns(own, rounds, **clock)
        for form in forms[1:]:
            ratios = frame.over(times[form], times["plain"])
            goal = GOAL if form == "auto" else None
            claims.append(Claim(f"MoLE / FFN, {form}: {words}", ratios, goal, why=WHY))
    return claims


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = frame.parser(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    import torch

    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    shape = (1, 9, 32) if args.short else (args.images, POSITIONS, WIDTH)
    made = make_layer(device, dtype, shape)
    alone = device.type == "cpu" and args.threads == 1
    clock: dict[str, Any] = {"warm_up": 1}
    if not alone:
        clock["clock"] = time.perf_counter
    if device.type == "cuda":
        clock["wait"] = torch.cuda.synchronize
    rounds = args.rounds or (2 if args.short else 5)
    claims = measure(made, rounds, **clock)
    title = f"a MoLE layer over its FFN, {shape[0] * shape[1]} tokens of {shape[2]}"
    frame.write("mole_layer", title, claims, args)


if __name__ == "__main__":
    main()
