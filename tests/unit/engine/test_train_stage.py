"""What of a config reaches the training of a stage."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine.config import Config

from tove.engine.optimizer import Schedule
from tove.engine.preflight import check_config
from tove.engine.stages.context import StageContext
from tove.registry import STAGES


def test_the_runner_s_settings_of_the_config_and_of_the_stage_do(
    settings: dict[str, Any], tmp_path: Path
):
    settings["log_level"] = "ERROR"
    cfg = Config({**settings, "work_dir": str(tmp_path)})
    check_config(cfg)
    own = {"log_processor": {"window_size": 7}}
    stage = STAGES.build(dict(type="TrainStage", name="transfer", runner=own))
    model: Any = SimpleNamespace(leaves_unused=False)
    plan = stage._plan(StageContext(cfg, tmp_path), model, Schedule(steps=1), None)
    assert plan.settings["log_level"] == "ERROR"
    assert plan.settings["log_processor"]["window_size"] == 7
