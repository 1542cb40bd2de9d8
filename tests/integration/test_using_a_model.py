"""A trained model, used on photos: it answers as it did in the run that trained it."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from PIL import Image

import tove
from tove.engine.preflight import check_config
from tove.engine.stages.context import StageContext
from tove.errors import CheckpointError, ConfigError
from tove.registry import INFERENCERS
from tove_plugins import ExpertNotAvailable

REPOSITORY = Path(__file__).parents[2]
STATEMENT = "The {} square is on the left side."

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(finished_run: dict[str, Any]) -> Path:
    return finished_run["work"]


@pytest.fixture(scope="module")
def photos(miniature: Path) -> list[str]:
    return [str(miniature / f"data/images/test_{index:03d}.png") for index in range(8)]


@pytest.fixture(scope="module")
def model(work: Path) -> Any:
    return tove.load(work)


def evaluated(work: Path, stage: str, slots: list[str] | None = None) -> list[dict[str, Any]]:
    """Answer the test split as a stage that evaluates does."""
    cfg = Config.fromfile(work / "config.py")
    cfg.work_dir = str(work)
    check_config(cfg)
    context = StageContext(cfg=cfg, work_dir=work)
    trained: Any = context.load_model(work / stage / "model.pth", slots=slots)[0]
    trained.eval()
    loader = context.evaluation_loader("test_dataloader")
    with torch.no_grad():
        return [sample for batch in loader for sample in trained.test_step(batch)]


@pytest.mark.parametrize(
    ("options", "stage", "slots", "row"),
    [
        ({}, "transfer", None, "tove"),
        ({"detached": ["depth"]}, "transfer", ["dino"], "tove-depth"),
        ({"detached": ["depth", "dino"]}, "transfer", [], "tove-dino"),
        ({"stage": "merged"}, "merged", None, "merged"),
    ],
    ids=["all experts", "one detached", "all detached", "merged"],
)
def test_it_answers_as_the_run_s_evaluation_did(
    options: dict, stage: str, slots: list[str] | None, row: str, work: Path, photos: list[str]
):
    samples = evaluated(work, stage, slots)
    statements = [s for s in samples if s["task"] == "statement"]
    captions = [s for s in samples if s["task"] == "caption"]
    model = tove.load(work, **options)
    assert model.row is not None
    assert (model.row["name"], list(model.experts)) == (row, model.row["experts"])

    found = model.judge(
        [s["image_path"] for s in statements], [f"{s['statement']}." for s in statements]
    )
    assert [list(answer.scores.values()) for answer in found] == [s["scores"] for s in statements]
    assert [answer.text for answer in found] == [("no", "yes")[s["prediction"]] for s in statements]
    said = model.caption([s["image_path"] for s in captions])
    assert said == [s["prediction"] for s in captions]

    items = json.loads((work / model.row["stage"] / "items" / f"{row}.json").read_text())
    right = [float(a.text == s["target"]) for s, a in zip(statements, found, strict=True)]
    assert right == list(items["vsr/accuracy"].values())


def test_an_image_is_the_same_whatever_it_comes_as(model: Any, photos: list[str]):
    opened = [Image.open(photo) for photo in photos[:2]]
    tensors = [
        torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
        .view(image.height, image.width, 3)
        .permute(2, 0, 1)
        for image in opened
    ]
    asked = STATEMENT.format("red")
    expected = model.judge(photos[:2], asked)
    assert expected[0].scores != expected[1].scores
    for images in (opened, [Path(photo) for photo in photos[:2]], tensors, torch.stack(tensors)):
        assert model.judge(images, asked) == expected
    assert model.judge([tensor / 255 for tensor in tensors], asked) == expected
    assert model.judge(photos[0], asked) == expected[:1]


def test_one_image_or_one_question_stands_for_all(model: Any, photos: list[str]):
    questions = ["is it red ?", "is it blue ?"]
    both = model.ask([photos[0], photos[0]], questions, ["yes", "no", "left"])
    again = model.ask(photos[0], questions, ["yes", "no", "left"])
    assert again == both
    assert list(both[0].scores) == ["yes", "no", "left"]
    assert both[0].text == max(both[0].scores, key=both[0].scores.get)
    assert both[0].scores != both[1].scores
    assert len(model.ask(photos[:3], "is it red ?")) == 3
    with pytest.raises(ConfigError, match="3 images and 2 questions"):
        model.ask(photos[:3], questions)
    with pytest.raises(ConfigError, match="empty"):
        model.ask(photos, questions, [])
    for use in (model.ask, model.judge):
        with pytest.raises(ConfigError, match="question or statement is empty"):
            use(photos[0], " ")


def test_batches_do_not_change_the_answers(work: Path, model: Any, photos: list[str]):
    one_by_one = tove.load(work, batch_size=1).judge(photos, STATEMENT.format("blue"))
    for alone, together in zip(
        one_by_one, model.judge(photos, STATEMENT.format("blue")), strict=True
    ):
        assert alone.scores == pytest.approx(together.scores, abs=1e-5)


def test_a_prompt_of_one_s_own_and_a_question_without_answers_are_continued(
    model: Any, photos: list[str]
):
    assert model.ask(photos[0], "a blue")[0].text == model.caption(photos[0], "a blue")[0]
    assert model.ask(photos[0], "a blue")[0].scores == {}


def test_a_photo_that_cannot_be_read_is_named(model: Any, tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    for image, message in (
        (tmp_path / "broken.jpg", "broken.jpg cannot be read"),
        ("no.jpg", "no.jpg cannot be read"),
        (torch.zeros(1, 8, 8), r"a tensor \[1, 8, 8\] is no image"),
    ):
        with pytest.raises(OSError, match=message):
            model.caption([image])


def test_another_dtype_is_that_of_all_weights(work: Path, photos: list[str]):
    model = tove.load(work, device="cpu", dtype="bfloat16")
    assert {p.dtype for p in model.model.parameters()} == {torch.bfloat16}
    assert model.device == torch.device("cpu")
    assert model.caption(photos[0])


def test_no_image_is_kept(model: Any, photos: list[str]):
    model.caption(photos)
    assert model.model.cache is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detached": ["dept"]}, "Did you mean 'depth'"),
        ({"stage": "merg"}, "Did you mean 'merge' or 'merged'"),
        ({"stage": "baseline", "detached": ["depth"]}, "no expert of the model"),
        ({"device": "nowhere"}, "device is 'nowhere', which cannot be used here"),
        ({"dtype": "float33"}, "dtype is 'float33'"),
    ],
)
def test_what_is_not_there_is_told(options: dict, message: str, work: Path):
    with pytest.raises(ConfigError, match=message):
        tove.load(work, **options)


def test_a_folder_that_no_run_wrote_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no config\.py"):
        tove.load(tmp_path)


@pytest.fixture
def copied(work: Path, tmp_path: Path) -> Path:
    """The run's folder, to be changed at will."""
    return shutil.copytree(work, tmp_path / "copied")


def test_an_expert_that_is_detached_need_not_be_installed(copied: Path, photos: list[str]):
    config = copied / "config.py"
    config.write_text(config.read_text().replace("'tiny_depth'", "'not_installed_here'"))
    with pytest.raises(ExpertNotAvailable, match="not_installed_here"):
        tove.load(copied)
    assert tove.load(copied, detached="depth").caption(photos[0])


def test_a_run_is_used_where_its_data_is_not(copied: Path, photos: list[str]):
    config = copied / "config.py"
    settings = Config.fromfile(config)
    settings.data_root = "/nowhere"
    for loader in (name for name in settings if name.endswith("_dataloader")):
        dataset = settings[loader].dataset
        for inner in dataset.get("datasets", [dataset]):
            inner.data_root = "/nowhere"
    settings.dump(config)
    expected = tove.load(copied.parent / "copied").judge(photos, STATEMENT.format("red"))
    assert {answer.text for answer in expected} <= {"no", "yes"}


def test_a_run_that_learned_no_statements_says_so(copied: Path, photos: list[str]):
    settings = Config.fromfile(copied / "config.py")
    captions = settings.test_dataloader.dataset.datasets[1]
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        settings[loader].dataset = dict(captions, view="pad", prompt="here is")
    settings.dump(copied / "config.py")
    model = tove.load(copied)
    with pytest.raises(ConfigError, match="not trained to judge"):
        model.judge(photos[0], "true")
    padded = model.caption(photos[0])
    assert padded == tove.load(copied).caption(photos[0], "here is")


def test_a_slim_checkpoint_that_was_not_kept_is_told(copied: Path):
    (copied / "detach/slim_1.pth").unlink()
    with pytest.raises(CheckpointError, match=r"slim_1\.pth"):
        tove.load(copied, stage="tove-depth")


def test_the_row_is_that_of_what_runs_or_none(work: Path):
    assert tove.load(work, stage="tove-depth").row["name"] == "tove-depth"
    assert tove.load(work, detached=["dino"]).row is None
    assert tove.load(work, stage="merge").row is None
    assert repr(tove.load(work, stage="merge")) == (
        "<PlainCLIP of stage 'merge', without experts, on cpu>"
    )


def test_mmengine_builds_an_inferencer_by_name(work: Path, model: Any, photos: list[str]):
    settings = {"type": "VisionLanguageInferencer", "model": work, "show_progress": False}
    inferencer = INFERENCERS.build(settings)
    said = inferencer(photos[:3], batch_size=2)
    assert said == {"predictions": model.caption(photos[:3]), "visualization": []}
    asked = inferencer(photos[:1], question="red ?", answers=["yes", "no"])["predictions"]
    assert asked == model.ask(photos[:1], "red ?", ["yes", "no"])


# --- the tools ------------------------------------------------------------------------------------


def run_tool(name: str, *arguments: object) -> int:
    from tove import cli

    parse = runpy.run_path(str(REPOSITORY / f"tools/{name}.py"))["parse_args"]
    status: int = getattr(cli, name)(parse([str(argument) for argument in arguments]))
    return status


def test_a_caption_is_printed_for_each_photo(
    work: Path, model: Any, photos: list[str], capsys: pytest.CaptureFixture
):
    assert run_tool("caption", work, *photos[:2]) == 0
    printed = capsys.readouterr()
    said = model.caption(photos[:2])
    assert printed.out.splitlines() == [f"{p}: {s}" for p, s in zip(photos, said, strict=False)]
    assert "ToVE of stage 'transfer', with depth, dino" in printed.err


def test_json_is_all_that_is_printed(
    work: Path, model: Any, photos: list[str], capsys: pytest.CaptureFixture
):
    options = ("--detached", "depth", "--json")
    assert run_tool("ask", work, photos[0], "red ?", "--answers", "yes", "no", *options) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["stage"], entry["experts"]) == ("transfer", ["dino"])
    assert entry["answer"] == max(entry["scores"], key=entry["scores"].get)
    assert run_tool("ask", work, photos[0], STATEMENT.format("red"), "--judge", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["scores"] == model.judge(photos[0], STATEMENT.format("red"))[0].scores


def test_a_mistake_is_one_sentence(work: Path, photos: list[str], capsys: pytest.CaptureFixture):
    assert run_tool("caption", work, "no.jpg") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: no.jpg cannot be read")
    assert run_tool("ask", work, photos[0], "red ?", "--stage", "merg") == 2
    assert "Did you mean 'merge'" in capsys.readouterr().err.splitlines()[-1]


def test_the_tools_run_and_import_nothing_heavy_before(
    work: Path, photos: list[str], launch: Callable
):
    code = (
        "import runpy, sys, tove\n"
        "for tool in ('caption', 'ask'):\n"
        "    sys.argv = [tool, '-h']\n"
        "    try: runpy.run_path(f'tools/{tool}.py', run_name='__main__')\n"
        "    except SystemExit: print('torch' in sys.modules, 'mmengine' in sys.modules)"
    )
    assert launch("-c", code).stdout.count("False False") == 2
    done = launch("tools/caption.py", work, photos[0], "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)[0]["image"] == photos[0]
