"""Settings out of their range: each is told in a sentence before anything trains."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from harness import Result, count_told, main, miniature, parse_args

CASES: dict[str, Any] = {
    **{f"model.expert_dropout={v}": v for v in (1, 1.5, -0.5, float("nan"), "x")},
    **{f"model.balance_weight={v}": v for v in (-1, float("inf"))},
    **{f"model.gate.noise={v}": v for v in (-1.0, "x")},
    "model.gate.top_k=0": 0,
    "model.generation.num_beams=0": 0,
    "model.experts.depth.dtype=float13": "float13",
    **{f"schedule.steps={v}": v for v in (-1, 1.5)},
    **{f"schedule.lr={v}": v for v in (0, -1.0, float("nan"))},
    "schedule.warmup=6": 6,
    "schedule.clip=0": 0,
    "schedule.checkpoint_interval=0": 0,
    "optim_wrapper.clip_grad.max_norm=-1": -1,
    "model.encoder.image_size=0": 0,
    "log_level='info'": "info",
    "test_dataloader.drop_last=True": True,
    **{f"stages.0.name={v!r}": v for v in ("../x", "", "/abs", "./transfer", ".a", "a/b")},
    "stages=[]": [],
    "seed=1.5": 1.5,
    "image_size=0": 0,
    "batch_size=0": 0,
    "train_dataloader.num_workers=-1": -1,
    "test_dataloader.sampler.type=InfiniteSampler": "InfiniteSampler",
    "test_dataloader.dataset.datasets.0.max_samples=-1": -1,
    "stages.2.model.generation.num_beams=0": 0,
    "stages.2.model.encoder.layer='last'": "last",
    "merging.model.lm_weight=-1": -1,
    "merging.schedule.steps=-4": -4,
}


def _put(settings: Any, path: str, value: Any) -> None:
    *way, last = path.split(".")
    for part in way:
        place = int(part) if part.isdigit() else part
        if isinstance(settings, dict):
            settings.setdefault(place, {})
        settings = settings[place]
    settings[last] = value


def measure(folder: Path, num: int, seed: int) -> Result:
    result = Result("a setting out of its range")
    settings = miniature(folder / "miniature")
    for number, (case, value) in enumerate(list(CASES.items())[:num]):
        changed = deepcopy(settings)
        _put(changed, case.partition("=")[0], value)
        count_told(result, case, changed, folder / f"work{number}")
    return result


if __name__ == "__main__":
    main(measure, parse_args(), len(CASES))
