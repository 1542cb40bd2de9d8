"""What the parts of a model take in training: measured on some steps, the others left alone.

    part_times.jsonl     one line per sampled step: iteration, milliseconds of the step, of its
                         parts' forward passes and of the wait for data, megabytes at the peak,
                         tokens that the language model read a second, MFU where it is known

    MFU = operations of a step / (its seconds . operations a second that the device can do)

On a GPU times are of events on its stream, read once they have happened. Backward pass and
optimiser are what is left of the step.
"""

import json
import resource
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from tove.atomic_io import writing
from tove.config.validation import Range
from tove.engine.distributed import unwrapped
from tove.engine.hooks import keep_lines
from tove.engine.parts import watched_parts
from tove.evaluation.profile.flops import flop_counter
from tove.registry import HOOKS

__all__ = ["FILE", "PartTimesHook"]

FILE = "part_times.jsonl"
_PEAKS = {"H100": 989.4, "H200": 989.4, "A100": 312.0}
"""10^12 dense operations a second in bfloat16, as their maker says, by what cards are called."""


class _Sample:
    """One step that is measured.

    Args:
        iteration: of the step, from 1.
        device: that it runs on.
    """

    def __init__(self, iteration: int, device: torch.device) -> None:
        self.iteration, self.device = iteration, device
        self.parts: list[tuple[str, Any, Any]] = []
        self.tokens, self.flops = 0, 0
        self.data_ms = self.peak_mb = 0.0
        self.begun = self.ended = self.mark()

    def mark(self) -> Any:  # noqa: ANN401 - an event, or seconds
        """Return the moment that the device is at."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    @property
    def has_happened(self) -> bool:
        """Whether the device is through with it; nothing is waited for."""
        return self.device.type != "cuda" or self.ended.query()

    def _ms(self, begun: Any, ended: Any) -> float:  # noqa: ANN401
        if self.device.type != "cuda":
            return float(ended - begun) * 1e3
        return float(begun.elapsed_time(ended))

    def line(self, flops: int, peak_tflops: float | None) -> dict[str, Any]:
        """Return the line of the file.

        Args:
            flops: of a step; 0 where they have not been counted.
            peak_tflops: that the device can do; None where it is not known.
        """
        step = self._ms(self.begun, self.ended)
        parts: dict[str, float] = {}
        for part, begun, ended in self.parts:
            parts[part] = parts.get(part, 0.0) + self._ms(begun, ended)
        told = {
            "iter": self.iteration,
            "step_ms": step,
            "data_ms": self.data_ms,
            "peak_memory_mb": self.peak_mb,
            "tokens_per_s": self.tokens / step * 1e3,
            "parts": parts,
        }
        if peak_tflops and flops:
            told["mfu"] = flops / (step * 1e-3 * peak_tflops * 1e12)
        return told


@HOOKS.register_module()
class PartTimesHook(Hook):
    """Measures every n-th step by part; other steps are left alone.

    Args:
        interval: n, in steps.
        peak_tflops: 10^12 operations a second that the device can do, for MFU; None goes by the
            card's name, and tells no MFU where that is not known.
    """

    priority = "VERY_HIGH"  # begins with the step's other hooks, ends before them

    def __init__(
        self,
        interval: Annotated[int, Range(1)] = 100,
        peak_tflops: Annotated[float, Range(0, above=True)] | None = None,
    ) -> None:
        self.interval, self.peak_tflops = interval, peak_tflops
        self._sample: _Sample | None = None
        self._waiting: list[_Sample] = []
        self._stack = ExitStack()
        self._counter: Any = None
        self._flops = 0

    def before_train(self, runner: Runner) -> None:
        """Cut the file back to what the resumed checkpoint has seen."""
        if is_main_process():
            keep_lines(Path(runner.work_dir) / FILE, runner.iter)

    def before_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Begin to watch, where this step is one of the n-th."""
        self._write(runner)
        if (runner.iter + 1) % self.interval:
            return
        model = unwrapped(runner.model)
        device = next(p.device for p in model.parameters() if p.requires_grad)
        sample = _Sample(runner.iter + 1, device)

        def end(part: str, begun: Any) -> None:  # noqa: ANN401
            sample.parts.append((part, begun, sample.mark()))

        self._stack.enter_context(watched_parts(model, sample.mark, end))
        language = getattr(getattr(model, "teacher", model), "language", None)
        reader = getattr(language, "lm", None)
        if reader is not None:
            hook = reader.register_forward_pre_hook(_count_tokens(sample), with_kwargs=True)
            self._stack.callback(hook.remove)
        if self._peak(device) and not self._flops:
            self._counter = self._stack.enter_context(flop_counter())
        self._sample = sample
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        sample.begun = sample.mark()

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """End what was begun."""
        sample = self._sample
        if sample is None:
            return
        sample.ended, self._sample = sample.mark(), None
        self._stack.close()
        if self._counter is not None:  # of one step: counting takes time, that step's is not told
            self._flops, self._counter = self._counter.get_total_flops(), None
            return
        sample.data_ms = 1e3 * float(runner.message_hub.get_scalar("train/data_time").current())
        sample.peak_mb = _peak_mb(sample.device)
        self._waiting.append(sample)

    def after_train(self, runner: Runner) -> None:
        """Write what is left."""
        self._write(runner, waits=True)

    def _write(self, runner: Runner, waits: bool = False) -> None:
        """Write the samples that the device is through with."""
        while self._waiting and (waits or self._waiting[0].has_happened):
            sample = self._waiting.pop(0)
            if waits and sample.device.type == "cuda":
                sample.ended.synchronize()
            line = sample.line(self._flops, self._peak(sample.device))
            if is_main_process():
                path = Path(runner.work_dir) / FILE
                with writing(path), path.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
                _show(runner, line)

    def _peak(self, device: torch.device) -> float | None:
        if self.peak_tflops is not None or device.type != "cuda":
            return self.peak_tflops
        name = torch.cuda.get_device_name(device)
        return next((peak for card, peak in _PEAKS.items() if card in name), None)


def _count_tokens(sample: _Sample) -> Any:  # noqa: ANN401 - a hook of torch
    """Return a hook that adds the positions that a language model reads, padding included."""

    def hook(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:  # noqa: ANN401
        read = [*inputs, *(named.get(name) for name in ("inputs_embeds", "input_ids"))]
        tokens = next((value for value in read if isinstance(value, Tensor)), None)
        if tokens is not None:
            sample.tokens += tokens.shape[0] * tokens.shape[1]

    return hook


def _peak_mb(device: torch.device) -> float:
    """Return the most memory since the step began; on a CPU since the process did."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _show(runner: Runner, line: dict[str, Any]) -> None:
    """Tell a line to the log and to TensorBoard."""
    step = line["step_ms"]
    parts = ", ".join(f"{n} {ms:.1f} ({100 * ms / step:.0f} %)" for n, ms in line["parts"].items())
    mfu = f", MFU {100 * line['mfu']:.1f} %" if "mfu" in line else ""
    runner.logger.info(
        f"step {line['iter']}: {step:.1f} ms after {line['data_ms']:.1f} ms of waiting for data, "
        f"{line['tokens_per_s']:,.0f} tokens read a second, {line['peak_memory_mb']:,.0f} MB at "
        f"the peak{mfu}; forward passes: {parts}"
    )
    numbers = {name: value for name, value in line.items() if isinstance(value, float)}
    numbers |= {f"forward_ms/{part}": ms for part, ms in line["parts"].items()}
    for name, value in numbers.items():
        runner.visualizer.add_scalar(f"parts/{name}", value, line["iter"])
