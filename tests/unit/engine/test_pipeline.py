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

    def __init__(self, name: str, with_others: str = "begin again") -> None:
        self.name, self.with_others = name, with_others

    def with_other_experts(self, context: Any) -> str:
        return self.with_others

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


def run(
    folder: Path,
    lr: float = 0.1,
    experts: tuple[str, ...] = (),
    two: str = "begin again",
    **options: Any,
) -> list[str]:
    """Run the stages plain, one, two and shown; give the names of all rows of the folder."""
    entries = [dict(type="Told", name="plain", with_others="keep")]
    entries += [dict(type="Told", name="one"), dict(type="Told", name="two", with_others=two)]
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


def test_going_on_with_other_experts_keeps_what_runs_none_and_begins_the_rest_again(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    run(tmp_path, experts=("a",))
    capsys.readouterr()
    assert run(tmp_path, experts=("a", "b"), resume=True) == ["plain", "one", "two"]
    told = capsys.readouterr().out
    assert "plain: the experts have changed; it runs no expert, so it stays as it is" in told
    assert "one: the experts have changed; it depends on all of them, so it begins again" in told
    assert "one: Told in" in told
    assert "plain: Told in" not in told


def test_a_stage_that_refuses_other_experts_is_not_gone_on_with(tmp_path: Path):
    run(tmp_path, experts=("a",), two="refuse")
    with pytest.raises(ConfigError, match=r"'two' .*model\.experts\.b\.type: None -> 'tiny_depth'"):
        run(tmp_path, experts=("a", "b"), two="refuse", resume=True)


def test_a_run_begun_anew_shows_no_row_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(stage: Told, context: Any) -> list[dict[str, Any]]:
        raise KeyboardInterrupt

    run(tmp_path)
    monkeypatch.setattr(Told, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, lr=0.2)
    assert told_rate(tmp_path) == 0.2
    assert not (tmp_path / "results.json").exists()


def test_an_unfinished_stage_gives_no_row_and_refuses_nothing(tmp_path: Path):
    run(tmp_path)
    (tmp_path / "one" / "done.json").unlink()
    (tmp_path / "plain" / "done.json").unlink()
    assert run(tmp_path, lr=0.2, only="two") == ["two"]


def test_what_only_shows_the_rows_leaves_them_their_config(tmp_path: Path):
    run(tmp_path)
    assert run(tmp_path, lr=0.2, only="shown") == ["plain", "one", "two"]
    assert told_rate(tmp_path) == 0.1
