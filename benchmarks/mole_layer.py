"""What a MoLE layer costs over the plain FFN, at ViT-L's size: ratios of interleaved pairs.

Forms: sorted and mask (`tove.methods.move_kd.mole`), and naive: a loop over the experts, each of
which gathers its tokens and adds to what autograd keeps. Every round times the plain FFN first and
last and each form between; a ratio is a form's time over the mean of its round's two plain times,
and the median of the rounds is told, so that a busy machine slows both sides alike.
Rows: forward without gradients; forward and backward with the FFN trained, and with it frozen as
in the first stage; both with and without the dropout of training.

    python benchmarks/mole_layer.py [--device cuda] [--dtype bfloat16] [--images 2] [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from tove.methods.move_kd.mole import MoLE

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "core"), str(ROOT / "expert_plugins")]

WIDTH, HIDDEN, POSITIONS = 1024, 4096, 577


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


def ratios(
    works: dict[str, Callable[[], None]],
    rounds: int,
    wait: Callable[[], None],
    clock: Callable[[], float],
) -> dict[str, float]:
    """Return every form's median ratio to "plain", and the median time of that in ms."""

    def seconds(work: Callable[[], None]) -> float:
        wait()
        start = clock()
        work()
        wait()
        return clock() - start

    found: dict[str, list[float]] = {name: [] for name in works}
    for work in (*works.values(), *works.values()):
        work()
    forms = [name for name in works if name != "plain"]
    for turn in range(rounds):
        order = forms if turn % 2 else forms[::-1]
        first = seconds(works["plain"])
        times = {name: seconds(works[name]) for name in order}
        plain = (first + seconds(works["plain"])) / 2
        found["plain"].append(1e3 * plain)
        for name, value in times.items():
            found[name].append(value / plain)
    return {name: statistics.median(values) for name, values in found.items()}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    import torch
    from rich.console import Console
    from rich.table import Table
    from transformers import CLIPVisionConfig
    from transformers.models.clip.modeling_clip import CLIPMLP

    from tove.methods.move_kd.mole import MoLE

    args = parse_arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    ffn = CLIPMLP(CLIPVisionConfig(hidden_size=WIDTH, intermediate_size=HIDDEN))
    mole = MoLE(ffn).to(device, dtype)
    x_BPD = torch.randn(args.images, POSITIONS, WIDTH, device=device, dtype=dtype)
    x_BPD.requires_grad_()
    cotangent = torch.randn_like(x_BPD)
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    # Of one thread the processor's own time, which leaves out what other processes took.
    alone = device.type == "cpu" and args.threads == 1
    clock = time.process_time if alone else time.perf_counter

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

    forms = ("plain", "sorted", "mask", "naive")
    table = Table("", "plain, ms", *forms[1:])
    for name, work, trained, dropout in (
        ("forward, eval", forward, True, False),
        ("forward + backward", step, True, False),
        ("forward + backward, dropout .05", step, True, True),
        ("forward + backward, FFN frozen", step, False, False),
        ("forward + backward, FFN frozen, dropout .05", step, False, True),
    ):
        ffn.requires_grad_(trained)
        mole.train(dropout)
        works = {form: lambda form=form, work=work: work(form) for form in forms}
        row = ratios(works, args.rounds, wait, clock)
        table.add_row(name, f"{row['plain']:.1f}", *(f"{row[form]:.3f}" for form in forms[1:]))
    counts = mole.route(x_BPD).argmax(-1).flatten().bincount(minlength=3).tolist()
    console = Console(width=110)
    console.print(
        f"{args.device}, {args.dtype}, {args.threads} thread(s), {args.images * POSITIONS} tokens "
        f"of {WIDTH}, tokens an expert {counts}; ratios to the plain FFN, medians of {args.rounds}"
    )
    console.print(table)


if __name__ == "__main__":
    main()
