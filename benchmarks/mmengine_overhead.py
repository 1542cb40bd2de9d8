"""What mmengine's loop, our hooks and the logging add to the bare training steps.

    python benchmarks/mmengine_overhead.py

The demo's model from the token cache. "bare" runs the same steps of the same optimiser on the same
batches in a `for`, seeded as the hook does; loading is in both. What a Runner does once, before its
first step and after its last, is told in milliseconds, its construction left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import frame
from frame import Claim
from training_step import CONFIG, batch_of

GOAL = 1.02
WHY = "rounds differ by more than that"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    import torch
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.logging import MMLogger
    from mmengine.optim import build_optim_wrapper
    from torch.utils.data import DataLoader

    from tove.engine.loop import build_stage_runner
    from tove.engine.optimizer import Schedule, optim_wrapper_cfg
    from tove.engine.run_plan import RunPlan
    from tove.engine.seeding import seed_step
    from tove.registry import MODELS

    args = frame.parser(__doc__).parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds, steps = (1, 2) if args.short else (args.rounds or 5, 30)
    model: Any = MODELS.build(Config.fromfile(str(CONFIG)).model)
    size = 2 if args.short else 32
    batch = batch_of(torch.randint(0, 256, (size, 3, 64, 64), dtype=torch.uint8))
    batches = [batch] * (steps + 1)  # mmengine sleeps for two seconds where a loader ends
    loader: Any = DataLoader(batches, batch_size=1, collate_fn=lambda items: items[0])
    schedule = Schedule(steps=steps, lr=1e-5, checkpoint_interval=10**9)

    class Clock(Hook):
        """The processor's seconds at the loop's begin and end."""

        priority = "LOWEST"

        def before_train_epoch(self, runner: object) -> None:
            self.begun = time.process_time()

        def after_train_iter(self, *args: object, **kwargs: object) -> None:
            self.ended = time.process_time()

    ratios, once = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):  # the first warms up
            place, clock = Path(folder) / str(turn), Clock()
            settings = {"default_hooks": {"checkpoint": None}, "custom_hooks": [clock]}
            plan = RunPlan(place, model, 0, dict, schedule, loader, settings=settings)
            runner = build_stage_runner(plan)
            MMLogger.get_current_instance().setLevel("WARNING")
            wrapper = build_optim_wrapper(model, optim_wrapper_cfg(schedule))

            def bare(wrapper: Any = wrapper) -> None:  # noqa: ANN401 - mmengine's
                model.train()
                shared = torch.Generator()
                for step, data in enumerate(islice(loader, steps)):
                    seed_step(0, step, shared)
                    model.train_step(data, optim_wrapper=wrapper)

            times = {}
            for name, work in [("runner", runner.train), ("bare", bare)][:: (-1) ** turn]:
                start = time.process_time()
                work()
                times[name] = time.process_time() - start
            loop = clock.ended - clock.begun
            ratios.append(loop / times["bare"])
            once.append(1e3 * (times["runner"] - loop))
    claims = [
        Claim(f"mmengine's loop / bare steps, {steps} of them", ratios[1:], GOAL, why=WHY),
        Claim("before the first step and after the last", once[1:], unit="ms"),
    ]
    frame.write("mmengine_overhead", "the loop, its hooks and logging", claims, args)


if __name__ == "__main__":
    main()
