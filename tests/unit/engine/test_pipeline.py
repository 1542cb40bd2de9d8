"""What a second call keeps of a work folder, and that it tells the settings of what it keeps."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from tove.engine.pipeline import StagedRunner
from tove.errors import ConfigError
from tove.registry import STAGES

ROW = {
    "experts": [],
    "metrics": {"vsr/accuracy": {"value": 0.5}},
    "trainable_parameters": 1,
    "total_parameters": 2,
    "forward_ms": 1.0,
    "training_images": 3,
    "steps": 4,
}


class Told:
    """A stage whose row is its name."""

    depends_on = ("model", "schedule")
    repeats = False

    def __init__(self, name: str, keeps: bool = False) -> None:
        self.name, self.keeps = name, keeps

    def with_other_experts(self, context: Any) -> str:
        return "keep" if self.keeps else "begin again"

    def run(self, context: Any) -> list[dict[str, Any]]:
        return [ROW | {"name": self.name}]


class Shown(Told):
    """A stage that shows what there is, as a report does."""

    repeats = True

    def run(self, context: Any) -> list[dict[str, Any]]:
        return []


@pytest.fixture(autouse=True)
def _stages() -> Iterator[None]:
    for kind in (Told, Shown):
        STAGES.register_module(name=kind.__name__, module=kind)
    yield
    for kind in (Told, Shown):
        STAGES.module_dict.pop(kind.__name__)


def run(folder: Path, lr: float = 0.1, experts: tuple[str, ...] = (), **options: Any) -> list[str]:
    """Run the stages plain, one, two and shown; give the names of all rows of the folder."""
    entries = [dict(type="Told", name="plain", keeps=True)]
    entries += [dict(type="Told", name=name) for name in ("one", "two")]
    entries += [dict(type="Shown", name="shown")]
    model = dict(
        type="ToVE", experts={slot: dict(type="tiny_depth", tiny=True) for slot in experts}
    )
    settings = dict(seed=0, model=model, schedule=dict(lr=lr, log_interval=5), stages=entries)
    StagedRunner(Config({**settings, "work_dir": str(folder)}), **options).run()
    return [row["name"] for row in json.loads((folder / "results.json").read_text())]


def told_rate(folder: Path) -> float:
    return Config.fromfile(folder / "config.py").schedule.lr


@pytest.mark.parametrize("options", [{"resume": True}, {"only": "two"}])
def test_a_refused_call_leaves_the_config_that_the_rows_are_of(options: dict, tmp_path: Path):
    run(tmp_path)
    with pytest.raises(ConfigError, match=r"'plain'.* finished with .*schedule\.lr: 0\.1 -> 0\.2"):
        run(tmp_path, lr=0.2, **options)
    assert told_rate(tmp_path) == 0.1


def test_a_later_stage_is_checked_before_an_earlier_one_runs(tmp_path: Path):
    run(tmp_path, only="two")
    with pytest.raises(ConfigError, match=r"'two' .* finished with other settings"):
        run(tmp_path, lr=0.2, resume=True)
    assert told_rate(tmp_path) == 0.1
    assert not (tmp_path / "plain").exists()


def test_a_stage_alone_may_change_where_it_is_the_only_one(tmp_path: Path):
    assert run(tmp_path, only="two") == ["two"]
    assert run(tmp_path, lr=0.2, only="two") == ["two"]
    assert told_rate(tmp_path) == 0.2


def test_a_stage_alone_joins_rows_of_the_same_settings(tmp_path: Path):
    assert run(tmp_path) == ["plain", "one", "two"]
    assert run(tmp_path, only="two") == ["plain", "one", "two"]


def test_a_stage_alone_does_not_join_rows_of_other_experts(tmp_path: Path):
    run(tmp_path, experts=("a",), only="plain")
    rows = run(tmp_path, experts=("a", "b"), only="two")  # plain runs no expert
    assert rows == ["plain", "two"]
    with pytest.raises(ConfigError, match=r"'two' .*model\.experts\.b\.type: 'tiny_depth' -> None"):
        run(tmp_path, experts=("a",), only="one")


def test_a_stage_alone_from_a_given_checkpoint_joins_the_others(tmp_path: Path):
    run(tmp_path, only="plain")
    assert run(tmp_path, only="one", checkpoint="first.pth") == ["plain", "one"]
    assert run(tmp_path, only="two", checkpoint="other.pth") == ["plain", "one", "two"]


def test_an_unfinished_stage_gives_no_row_and_refuses_nothing(tmp_path: Path):
    run(tmp_path)
    (tmp_path / "one" / "done.json").unlink()
    (tmp_path / "plain" / "done.json").unlink()
    assert run(tmp_path, lr=0.2, only="two") == ["two"]


def test_what_only_shows_the_rows_leaves_them_their_config(tmp_path: Path):
    run(tmp_path)
    assert run(tmp_path, lr=0.2, only="shown") == ["plain", "one", "two"]
    assert told_rate(tmp_path) == 0.1
