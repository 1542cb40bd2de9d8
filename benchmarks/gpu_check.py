"""What a card makes of ToVE at its paper's size: speed, memory, shares, beside the card's limits.

    make gpu-check PYTHON=python3

Weights are random and images too: what is timed does not depend on them. Each section stands by
itself; one that fails is told in the table, the others run. Without a card the same code runs at
small sizes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import frame
import fused_gate
import hub_ratio
import mole_layer
import training_step
from frame import ROOT, Claim

CONFIG = ROOT / "configs/tove/tove_clip-b16_coco-vsr.py"
CACHED_GOAL = 1.10  # of a cached step over one without experts, at this size
SHORT_SLOTS = ("dino", "eva")  # of the short form
SECONDS = 240.0  # after which no further network is compiled


@dataclass
class Check:
    """What the sections share.

    Attributes:
        device: that is checked.
        short: small sizes.
        folder: for the weights.
        claims: that were found.
        failed: what a section raised, by its name.
    """

    device: Any
    short: bool
    folder: Path
    start: float = field(default_factory=time.perf_counter)
    claims: list[Claim] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)

    @property
    def clock(self) -> dict[str, Any]:
        """Arguments of `frame.in_turns`: the wall's clock, once the device has done its work."""
        warm_up = 0 if self.short else 2
        return {"clock": time.perf_counter, "wait": self.wait, "warm_up": warm_up}

    def wait(self) -> None:
        """Wait for the device."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def rounds(self, number: int) -> int:
        """Return how many turns there are."""
        return 1 if self.short else number

    @property
    def side(self) -> int:
        """Of the large product's matrices."""
        return 128 if self.short else 8192

    @cached_property
    def rate(self) -> float:
        """Operations a second of a large bfloat16 product: what the card can do."""
        import torch

        side = self.side
        a, b = (torch.randn(2, side, side, device=self.device)).bfloat16()
        times = frame.in_turns({"": lambda: a @ b}, self.rounds(15), **self.clock)[""]
        return 2 * side**3 / sorted(times)[len(times) // 2]

    @cached_property
    def models(self) -> tuple[Any, Any]:
        """ToVE as its config says, and PlainCLIP around the same networks."""
        from mmengine.config import Config

        from tove.engine.planning import method_settings
        from tove.registry import MODELS

        settings = Config.fromfile(str(CONFIG)).model
        settings.expert_dropout = 0.0  # every step runs all experts
        settings.encoder.pretrained = str(write_clip(self.folder / "clip", self.short))
        settings.language.pretrained = str(write_language(self.folder / "language", self.short))
        settings.token_cache = {"max_gb": 8.0}
        if self.short:
            settings.projector.hidden = 16
            settings.experts = {s: {**settings.experts[s], "tiny": True} for s in SHORT_SLOTS}
        for slot in [s for s, cfg in settings.experts.items() if not installed(cfg["type"])]:
            del settings.experts[slot]
            self.failed[f"expert {slot}"] = "left out: its package is not installed"
        with hub_ratio.random_weights():
            model = MODELS.build(settings).to(self.device)
        parts = {"encoder": model.encoder, "language": model.language}
        plain = MODELS.build(method_settings(settings, {"type": "PlainCLIP"}) | parts)
        return model, plain.to(self.device)

    @cached_property
    def batch(self) -> dict[str, Any]:
        """Images as a loader hands them over, and their samples."""
        import torch

        size, side = (2, 32) if self.short else (128, 224)
        images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8)
        return training_step.batch_of(images.pin_memory() if self.device.type == "cuda" else images)


def installed(name: str) -> bool:
    """Tell whether an expert's package is there."""
    from tove_plugins import ExpertBuildError, check_build

    try:
        check_build(name, tiny=True)
    except ExpertBuildError:
        return False
    return True


def write_clip(folder: Path, short: bool) -> Path:
    """Write a CLIP ViT-B/16 with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes: dict[str, Any] = dict(image_size=224, patch_size=16)
    if short:
        sizes = dict(image_size=32, patch_size=8, hidden_size=32, intermediate_size=64)
        sizes |= dict(num_hidden_layers=2, num_attention_heads=2)
    CLIPVisionModel(CLIPVisionConfig(**sizes)).save_pretrained(folder)
    return folder


def write_language(folder: Path, short: bool) -> Path:
    """Write a RoBERTa of its base size with cross-attention, random weights and few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForCausalLM

    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = "the red ball is behind a blue box ? yes no".split()
    numbers = {word: number for number, word in enumerate([*special.values(), *words])}
    core = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    ids = dict(bos_token_id=0, pad_token_id=1, eos_token_id=2)
    sizes: dict[str, Any] = dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    if short:
        sizes = dict(vocab_size=len(numbers), max_position_embeddings=40, hidden_size=32)
        sizes |= dict(num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    config = RobertaConfig(is_decoder=True, add_cross_attention=True, **ids, **sizes)
    RobertaForCausalLM(config).save_pretrained(folder)
    return folder


def limits(check: Check) -> None:
    """What the card reaches at best: a large product, a large copy."""
    import torch

    words = f"bf16 product of {check.side} x {check.side}"
    check.claims.append(Claim(words, [check.rate / 1e12], unit="TFLOP/s"))
    source = torch.empty(1 << (16 if check.short else 31), dtype=torch.uint8, device=check.device)
    target = torch.empty_like(source)
    works = {"": lambda: target.copy_(source)}
    times = frame.in_turns(works, check.rounds(9), **check.clock)[""]
    speeds = [2 * source.numel() / seconds / 1e9 for seconds in times]
    check.claims.append(Claim("copy, bytes read and written", speeds, unit="GB/s"))


def training(check: Check) -> None:
    """Steps at the paper's size in bfloat16: images a second, MFU, memory, shares, cached step."""
    import torch

    from tove.evaluation.profile.flops import count_flops

    model, plain = check.models
    works = training_step.steps(model, plain, check.batch, "bfloat16")
    works["live"]()
    flops = count_flops(works["live"])
    if check.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(check.device)
    own = training_step.parts(model, check.batch)
    with torch.autocast(check.device.type, torch.bfloat16):
        times = frame.in_turns(own, check.rounds(7), **check.clock)
    times |= frame.in_turns({"live": works["live"]}, check.rounds(7), **check.clock)
    check.times["live"] = blocks(works["live"], check)  # 50 steps, ten at a time
    size = len(check.batch["images"])
    live = check.times["live"]
    check.claims += [
        Claim(f"training, batch {size}", [size / s for s in live], unit="images/s"),
        Claim("a step", [1e3 * s for s in live], unit="ms"),
        Claim("FLOPs of a step", [flops / 1e12], unit="TFLOP"),
        Claim("MFU, of the product's rate", [flops / s / check.rate for s in live]),
    ]
    if check.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(check.device) / 1e9
        check.claims.append(Claim("peak memory", [peak], unit="GB"))
    check.claims += training_step.shares(times, list(own))
    turns = frame.in_turns(works, check.rounds(10), **check.clock)
    check.claims += training_step.claims_of(works, turns, CACHED_GOAL)


def blocks(step: Callable[[], object], check: Check) -> list[float]:
    """Return the seconds of a step in each of five blocks of ten, waited for at their ends."""
    found = []
    for _ in range(check.rounds(5)):
        check.wait()
        start = time.perf_counter()
        for _ in range(check.rounds(10)):
            step()
        check.wait()
        found.append((time.perf_counter() - start) / check.rounds(10))
    return found


def hub(check: Check) -> None:
    """The hub over its bare experts, in bfloat16 as the config says."""
    import torch

    from tove.backbones.preprocess import to_unit_range

    model, _ = check.models
    images = to_unit_range(check.batch["images"].to(check.device))
    with torch.autocast(check.device.type, torch.bfloat16):
        label = f"batch {len(images)}"
        check.claims += hub_ratio.measure(label, model.hub, images, check.rounds(7), **check.clock)


def mole(check: Check) -> None:
    """A MoLE layer over its FFN at ViT-L's size."""
    import torch

    shape = (1, 9, 32) if check.short else (32, mole_layer.POSITIONS, mole_layer.WIDTH)
    made = mole_layer.make_layer(check.device, torch.bfloat16, shape)
    rounds = check.rounds(15)
    check.claims += mole_layer.measure(made, rounds, mole_layer.ROWS[:4], **check.clock)


def gate(check: Check) -> None:
    """ToVE's fused gate at 576 tokens of width 4,096."""
    import torch

    for experts in (2, 4, 8):
        sizes = (experts, 3, 16, 32, 1) if check.short else (experts, 24, 1024, 4096, 8)
        check.claims += fused_gate.measure(
            fused_gate.Sizes(*sizes),
            check.rounds(9),
            check.device,
            torch.bfloat16,
            **check.clock,
        )


def compiled(check: Check) -> None:
    """The frozen networks compiled, one by one while there is time; then the same training."""
    model, plain = check.models
    live = training_step.steps(model, plain, check.batch, "bfloat16")["live"]
    networks = {"encoder": model.encoder}
    if not check.short:
        networks |= {slot: model.hub.network(slot).expert for slot in model.slots}
    backend = "eager" if check.short else "inductor"  # what traces is the same
    done = []
    for name, network in networks.items():
        if time.perf_counter() - check.start > SECONDS:
            check.failed[f"compiled {name}"] = "left out: no time was left"
            continue
        start = time.perf_counter()
        network.compile(backend=backend, dynamic=False)
        try:
            live()
        except Exception as error:
            network._compiled_call_impl = None
            check.failed[f"compiled {name}"] = told(error)
            continue
        check.wait()
        taken = time.perf_counter() - start
        check.claims.append(Claim(f"compiling {name}, with a step", [taken], unit="s"))
        done.append(name)
    if done and "live" in check.times:
        values = frame.over(check.times["live"], blocks(live, check))
        check.claims.append(Claim(f"step, eager / compiled ({', '.join(done)})", values))


SECTIONS = (limits, training, hub, mole, gate, compiled)


def told(error: BaseException) -> str:
    """Return an error in a line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def table(result: Mapping[str, Any]) -> str:
    """Return the page: the machine, the claims, what failed."""
    where = result["machine"]
    rows = [
        f"| {claim['what']} | {frame.spread(claim)} "
        f"| {frame.goal(claim) if claim['goal'] is not None else ''} "
        f"| {dict([(True, 'yes'), (False, 'no'), (None, '')])[claim['holds']]} |"
        for claim in result["claims"]
    ]
    failed = [f"- {name}: {words}" for name, words in result["failed"].items()]
    return "\n".join(
        [
            f"# {result['title']}",
            "",
            ", ".join(f"{key} {value}" for key, value in where.items()),
            "",
            "| what | median (quartiles) | goal | holds |",
            "|---|---|---|---|",
            *rows,
            *(["", "Not measured:", "", *failed] if failed else []),
            "",
        ]
    )


def run(check: Check, sections: Sequence[Callable[[Check], None]] = SECTIONS) -> None:
    """Run the sections, each told with the seconds that have passed."""
    for section in sections:
        try:
            section(check)
        except Exception as error:
            check.failed[section.__name__] = told(error)
            traceback.print_exc()
        passed = time.perf_counter() - check.start
        print(f"[gpu-check] {section.__name__}: done after {passed:.0f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; 1 if a section failed."""
    import torch

    args: argparse.Namespace = frame.parser(__doc__).parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.short |= device.type == "cpu"
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        check = Check(device, args.short, Path(folder))
        run(check)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no card, short form"
    title = f"ToVE at the paper's size on {name}"
    frame.write("gpu_check", title, check.claims, args, failed=check.failed)
    result = json.loads((args.out / "gpu_check.json").read_text())
    (args.out / "gpu_check.md").write_text(table(result))
    print(table(result))
    return int(any(section.__name__ in check.failed for section in SECTIONS))


if __name__ == "__main__":
    raise SystemExit(main())
