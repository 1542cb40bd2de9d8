"""The documentation says what is there: links, commands, tables and snippets are held to the code.

A fenced block of Python runs, unless the line above it says otherwise:
    <!-- file: PATH -->          the file of the page's template, word for word
    <!-- after the package -->   runs once that package is built and on the path
    <!-- after a run -->         runs beside a finished run and a photo
    <!-- after the method -->    the same, for the package of the method
    <!-- resolve -->             to be added to the package's plugin, as the page tells
    <!-- fragment -->            an excerpt; it has to be Python, no more
"""

import argparse
import ast
import inspect
import re
import runpy
import shlex
import shutil
import sys
import textwrap
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from tove.backbones.clip.encoder import TransformersCLIP
from tove.config.keys import SETTINGS
from tove.config.loading import load_config
from tove.engine.method_packages import import_named_methods
from tove.engine.pipeline import StagedRunner
from tove.engine.preflight import check_config as check_run
from tove.registry import MODELS, SECTIONS
from tove_plugins import (
    ExpertBuildError,
    build_expert,
    discover,
    discover_methods,
    resolve_expert,
)
from tove_plugins._cli import COMMANDS as COMMANDS_OF_THE_SDK
from tove_plugins._cli import build_parser

REPOSITORY = Path(__file__).parents[2]
PUBLISH = REPOSITORY / "docs/publish-an-expert.md"
PUBLISH_METHOD = REPOSITORY / "docs/publish-a-method.md"
EXPERTS = REPOSITORY / "docs/experts.md"
TEMPLATES = {
    PUBLISH: REPOSITORY / "templates/expert",
    PUBLISH_METHOD: REPOSITORY / "templates/method",
}
OPTIONAL = "optional-dependencies"
PAGE_EXPERT = "my_expert"  # the expert of the template and of that page
PAGE_METHOD = "my_method"
DEMO = "configs/tiny/tove-tiny_scenes.py"
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
FENCE = re.compile(
    r"(?:<!-- (?P<note>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page and line, its language, its text and the note above it."""

    page: Path
    line: int
    language: str
    text: str
    note: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        note = (match["note"] or "").strip()
        yield Block(page, line, match["language"], match["text"], note)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def with_ids(blocks: list[Block]) -> list[Any]:
    return [pytest.param(block, id=block.place) for block in blocks]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


# --- links ----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_local_links_lead_somewhere(page: Path):
    broken = []
    for match in LINK.finditer(prose(page)):
        path, _, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        inside = target.is_relative_to(REPOSITORY)
        if not inside or not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(match["target"])
    assert not broken


def test_every_page_is_reached_from_the_index():
    index = REPOSITORY / "docs/index.md"
    linked = {(index.parent / m["target"]).resolve() for m in LINK.finditer(prose(index))}
    pages = {page for page in PAGES if page.parent.name in ("docs", "decisions")} - {index}
    assert not pages - linked


# --- commands -------------------------------------------------------------------------------------


def commands_of(block: Block) -> list[str]:
    return [line for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]


COMMANDS = [
    pytest.param(command, id=f"{block.place}-{number}")
    for block in BLOCKS
    if block.language == "bash"
    for number, command in enumerate(commands_of(block))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist_with_their_arguments(command: str, monkeypatch: pytest.MonkeyPatch):
    words = shlex.split(command)
    while "=" in words[0]:
        variable = words.pop(0).partition("=")[0]
        assert variable in known_variables()
    program = Path(words[0]).name  # .venv/bin/mim is mim
    CHECKS[program](words[1:], monkeypatch)


def check_make(words: list[str], _: pytest.MonkeyPatch) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for word in words:
        if "=" in word:
            assert re.search(rf"\$\({word.partition('=')[0]}\)", makefile)
        else:
            assert re.search(rf"^{word}:", makefile, re.M)


def check_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if words[0] == "-m":
        if words[1] == "tove_plugins":
            check_command_line(words[2:])
        else:
            assert words[1] in ("venv", "build")
        return
    parse_tool(words, monkeypatch)


def check_command_line(words: list[str]) -> None:
    """Let the command line read its arguments; run what only looks."""
    parsed = build_parser().parse_args(words)
    experts = set(discover().experts)
    if parsed.command == "list" or getattr(parsed, "name", None) in experts:
        assert parsed.run(parsed) == 0
    elif parsed.name:
        assert parsed.name.replace("-", "_") in (PAGE_EXPERT, PAGE_METHOD)


def parse_tool(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the script itself read its arguments, then look at the config that they name."""
    script, arguments = REPOSITORY / words[0], words[1:]
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [script.name, *arguments])
    tool = runpy.run_path(str(script))
    parsed = tool["parse_args" if "parse_args" in tool else "parse_arguments"]()
    if hasattr(parsed, "config"):
        check_config(parsed.config, parsed)


def check_config(name: str, parsed: argparse.Namespace) -> Config:
    path = REPOSITORY / name
    assert path.is_file()
    options = getattr(parsed, "cfg_options", None)
    cfg = load_config(str(path), options)  # refuses what is never read
    known = load_config(str(path))
    for option in options or []:
        assert_key_is_read(option.partition("=")[0], known)
    stage = getattr(parsed, "stage", None)
    assert stage is None or stage in [entry["name"] for entry in cfg.stages]
    return cfg


def check_mim(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    action, package, config, *rest = words
    assert package == "tove_plugins"
    if action == "gridsearch":
        searched = rest.pop(rest.index("--search-args") + 1)
        rest.remove("--search-args")
        assert "--work-dir" in rest  # mim asks for it
        key, *values = shlex.split(searched.removeprefix("--"))
        found: Any = load_config(str(REPOSITORY / config))
        for part in key.split("."):
            found = found[part]
        if key.endswith(".type"):
            assert {found, *values} <= {*discover().experts, PAGE_EXPERT}
    elif action == "run" and config in COMMANDS_OF_THE_SDK:
        assert (REPOSITORY / f"tools/{config}.py").is_file()
        return check_command_line([config, *rest])
    elif action == "run":
        return parse_tool([f"tools/{config}.py", *rest], monkeypatch)
    elif action not in ("train", "test"):
        raise AssertionError(f"mim {action} is not checked")
    if "--gpus" in rest:  # mim's own
        place = rest.index("--gpus")
        del rest[place : place + 2]
    tool = "test" if action == "test" else "train"
    parse_tool([f"tools/{tool}.py", config, *rest], monkeypatch)


def check_cd(words: list[str], _: pytest.MonkeyPatch) -> None:
    assert words in [[f"tove-{name.replace('_', '-')}"] for name in (PAGE_EXPERT, PAGE_METHOD)]


def check_torchrun(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words.pop(0).startswith("--nproc_per_node=")
    assert "--launcher" in words
    parse_tool(words, monkeypatch)


def check_srun(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    while words[0].startswith("--"):
        words.pop(0)
    assert words.pop(0) == "python"
    assert words[words.index("--launcher") + 1] == "slurm"
    parse_tool(words, monkeypatch)


def check_pip(words: list[str], _: pytest.MonkeyPatch) -> None:
    assert words.pop(0) == "install"
    known = [
        set(tomllib.loads((folder / "pyproject.toml").read_text())["project"][OPTIONAL])
        for folder in (REPOSITORY, *TEMPLATES.values())
    ]
    for word in words:
        extras = re.fullmatch(r"\.\[(.*)\]", word)
        if extras:
            assert any(set(extras[1].split(",")) <= names for names in known)
        else:
            assert word in ("-e", ".", "build") or word.endswith(".whl")


def check_development(words: list[str], _: pytest.MonkeyPatch) -> None:
    """Accept tools of the dev extra; the repository configures them."""
    assert not [w for w in words if "/" in w and not (REPOSITORY / w.partition("::")[0]).exists()]


def check_source(words: list[str], _: pytest.MonkeyPatch) -> None:
    """The environment is the one that the Makefile makes."""
    venv = re.search(r"^VENV := (\S+)$", (REPOSITORY / "Makefile").read_text(), re.M)
    assert venv is not None
    assert words == [f"{venv[1]}/bin/activate"]


CHECKS: dict[str, Callable[[list[str], pytest.MonkeyPatch], None]] = {
    "cd": check_cd,
    "make": check_make,
    "python": check_python,
    "python3.11": check_python,
    "mim": check_mim,
    "torchrun": check_torchrun,
    "srun": check_srun,
    "pip": check_pip,
    "pytest": check_development,
    "ruff": check_development,
    "mypy": check_development,
    "pre-commit": check_development,
    "source": check_source,
}


def known_variables() -> set[str]:
    from tove_plugins import _discovery

    ours = {_discovery.BLOCK, _discovery.LOAD, _discovery.TIMEOUT, "TOVE_TRACEBACK"}
    return ours | {"HF_HUB_OFFLINE", "OMP_NUM_THREADS"}


# --- keys and defaults ----------------------------------------------------------------------------


def readers() -> dict[str, Callable[..., Any]]:
    """Say who reads the keys under a prefix."""
    from tove.backbones.feature_cache.token_cache import TokenCache
    from tove.backbones.language.causal_lm import CausalLanguageModel
    from tove.data import CocoCaptions, VSRStatements
    from tove.data.image_dataset import ImageDataset
    from tove.engine.optimizer import Schedule
    from tove.engine.stages import ContributionStage, DetachStage, ExportStage, TrainStage
    from tove.methods.tove.gate import TokenGate
    from tove.methods.tove.merge_stage import MergeStage
    from tove.methods.tove.merging import Merge
    from tove.methods.tove.model import ToVE
    from tove.methods.tove.transfer import ResidualTransfer
    from tove.report.report_data import ReportSettings

    return {
        "model": ToVE,
        "model.encoder": TransformersCLIP,
        "model.language": CausalLanguageModel,
        "model.gate": TokenGate,
        "model.transfer": ResidualTransfer,
        "model.projector": lambda hidden=None: None,
        "model.token_cache": TokenCache,
        "model.generation": CausalLanguageModel.generate,
        "merging.model": Merge,
        "merging.schedule": Schedule,
        "schedule": Schedule,
        "report": ReportSettings,
        "dataset": ImageDataset,
        "CocoCaptions": CocoCaptions,
        "VSRStatements": VSRStatements,
        "TrainStage": TrainStage,
        "ExportStage": ExportStage,
        "ContributionStage": ContributionStage,
        "DetachStage": DetachStage,
        "MergeStage": MergeStage,
    }


def parameters_of(prefix: str) -> dict[str, inspect.Parameter]:
    """Give what reads the keys under a prefix, by name; a model's base reads its options too."""
    from tove.config.validation import parameters_of as accepted

    reader = readers().get(prefix)
    return {parameter.name: parameter for parameter in accepted(reader)} if reader else {}


def reader_of(key: str) -> inspect.Parameter | None:
    prefix, _, name = key.rpartition(".")
    return parameters_of(prefix).get(name)


def assert_key_is_read(key: str, cfg: Config) -> None:
    """Look for a key in the config, or in the signature of what reads its part of it."""
    found: Any = cfg
    for part in key.split("."):
        inside = found[int(part)] if isinstance(found, list) else found.get(part)
        if inside is None:
            break
        found = inside
    else:
        return
    new_slot = re.fullmatch(r"model\.experts\.\w+\.type", key)
    assert new_slot or reader_of(key), f"nothing reads {key}"


TABLE = re.compile(r"^\| key \| default \|.*\n\|[-| ]+\n((?:\|.*\n)+)", re.M)


def told_defaults() -> list[Any]:
    """Give (key, default) of every table whose header begins with `| key | default |`."""
    found = []
    for page in PAGES:
        for table in TABLE.findall(prose(page)):
            for line in table.splitlines():
                key, default = (cell.strip(" `") for cell in line.strip("|").split("|")[:2])
                name = f"{page.relative_to(REPOSITORY)}-{key}"
                found.append(pytest.param(key, default, id=name))
    return found


@pytest.mark.parametrize(("key", "told"), told_defaults())
def test_told_defaults_are_the_code_s(key: str, told: str):
    parameter = reader_of(key)
    assert parameter is not None, f"nothing reads {key}"
    if told == "required":
        assert parameter.default is inspect.Parameter.empty
    else:
        assert parameter.default == ast.literal_eval(told)


def test_no_switch_of_the_method_is_left_untold():
    told = {parameter.values[0] for parameter in told_defaults()}
    parts = ("model.gate", "model.transfer", "merging.model", "schedule", "report", "dataset")
    not_for_configs = {
        "self",
        "width",
        "slots",
        "headless",
        "expert_width",
        "d_lang",
        "d_in",
        "teacher",
        "lazy_init",
    }
    not_for_configs |= {"data_preprocessor", "lazy_init"}
    for part in parts:
        names = set(parameters_of(part)) - not_for_configs
        assert {f"{part}.{name}" for name in names} <= told


def test_every_top_level_key_is_told():
    page = prose(REPOSITORY / "docs/config.md")
    table = page.partition("## Top level")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", table, re.M)
    assert {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)} == SETTINGS


def test_the_page_of_the_checks_is_what_they_say_of_themselves():
    from tove_plugins.testing.__main__ import describe

    page = (REPOSITORY / "docs/checks.md").read_text()
    told = page.partition("<!-- checks")[2].partition("-->\n")[2].partition("<!-- end")[0]
    assert told.strip() == describe().strip(), "python -m tove_plugins.testing prints what is new"


# --- snippets -------------------------------------------------------------------------------------

PYTHON = [block for block in BLOCKS if block.language == "python"]


@pytest.mark.parametrize("block", with_ids(PYTHON))
def test_python_is_python(block: Block):
    if block.note != "fragment":
        compile(block.text, block.place, "exec")
        return
    try:
        ast.parse(block.text)
    except SyntaxError:  # arguments of a call
        ast.parse(f"f(\n{textwrap.indent(block.text, '    ')})")


def expert_calls() -> list[Any]:
    """Give `dict(type=NAME, ...)` of every Python block of the page on experts."""
    return [
        pytest.param(call, id=ast.unparse(call))
        for block in PYTHON
        if block.page == EXPERTS
        for call in ast.walk(ast.parse(block.text))
        if isinstance(call, ast.Call) and "type" in {word.arg for word in call.keywords}
    ]


@pytest.mark.parametrize("call", expert_calls())
def test_experts_are_there_and_take_the_options_told(call: ast.Call):
    placed = {"weights", "device", "dtype"}  # files that nobody has, and where it runs
    options = {w.arg: ast.literal_eval(w.value) for w in call.keywords if w.arg not in placed}
    assert resolve_expert(options.pop("type"), **options).tokens.width


@pytest.fixture(scope="module")
def photographed(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a photo and the export of a run, where the README looks for them."""
    from tove.backbones.clip.export import export_encoder

    folder = tmp_path_factory.mktemp("docs")
    encoder = TransformersCLIP(str(miniature / "clip"))
    export_encoder(encoder, folder / "work_dirs/tove-tiny_scenes/export")
    Image.effect_noise((50, 40), 90).convert("RGB").save(folder / "photo.jpg")
    return folder


@pytest.mark.parametrize("block", with_ids([block for block in PYTHON if not block.note]))
def test_snippets_run(block: Block, photographed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(photographed)
    found: dict[str, Any] = {}
    exec(compile(block.text, block.place, "exec"), found)  # our own documentation
    if "tokens" in found and block.page.name == "README.md":
        assert found["tokens"].shape == (1, 16, 32)


@pytest.mark.parametrize("block", with_ids([b for b in PYTHON if b.note == "after a run"]))
def test_snippets_on_a_trained_model_run(
    block: Block,
    finished_run: dict[str, Any],
    photographed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "work_dirs").mkdir()
    (tmp_path / "work_dirs/tove-tiny_scenes").symlink_to(finished_run["work"])
    shutil.copy(photographed / "photo.jpg", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.place, "exec"), {})  # our own documentation


def test_both_libraries_read_the_same_tokens(photographed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(photographed)
    readme = [b for b in PYTHON if b.page.name == "README.md" and not b.note]
    tokens = []
    for block in readme:
        found: dict[str, Any] = {}
        exec(compile(block.text, block.place, "exec"), found)
        tokens.append(found["tokens"].detach())
    one, other = tokens
    assert (one - other).abs().max() < 0.05 * one.std()  # their resizing differs a little


# --- the packages of docs/publish-an-expert.md and docs/publish-a-method.md -----------------------

FILES = [block for block in BLOCKS if block.note.startswith("file: ")]


@pytest.mark.parametrize("block", with_ids(FILES))
def test_the_page_s_files_are_the_template_s(block: Block):
    template = TEMPLATES[block.page]
    assert block.text == (template / block.note.removeprefix("file: ")).read_text()


@pytest.mark.parametrize("page", TEMPLATES, ids=lambda page: page.stem)
def test_the_page_s_tree_is_the_template_s(page: Path):
    template = TEMPLATES[page]
    tree = next(b.text for b in BLOCKS if b.page == page and b.language == "text")
    files = (file.relative_to(template) for file in template.rglob("*") if file.is_file())
    left = {"__pycache__", ".ruff_cache", ".pytest_cache"}
    found = {f.as_posix() for f in files if not left & set(f.parts)}
    assert {line.strip() for line in tree.splitlines()[1:]} == found


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Path]]:
    """A page's package, built as a wheel and laid out as pip would."""
    from hatchling.build import build_wheel

    def build(page: Path, edit: Callable[[Path], None] = lambda package: None) -> Path:
        shutil.copytree(TEMPLATES[page], tmp_path / "project")
        edit(next((tmp_path / "project/src").iterdir()))
        monkeypatch.chdir(tmp_path / "project")
        wheel = tmp_path / build_wheel(str(tmp_path))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path / "site")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return wheel

    yield build
    packages = {f"tove_{PAGE_EXPERT}", f"tove_{PAGE_METHOD}"}
    for kind in (MODELS, SECTIONS):
        for name, what in list(kind.module_dict.items()):
            if what.__module__.partition(".")[0] in packages:
                del kind.module_dict[name]
    for module in [m for m in sys.modules if m.partition(".")[0] in packages]:
        del sys.modules[module]


def test_the_page_s_wheel_is_discovered_and_its_snippets_run(packaged: Callable[[Path], Path]):
    wheel = packaged(PUBLISH)
    assert f"dist/{wheel.name}" in PUBLISH.read_text()
    entry = discover().get(PAGE_EXPERT)
    assert (entry.distribution, entry.version) == ("tove-my-expert", "0.1.0")
    for block in BLOCKS:
        if block.note == "after the package":
            exec(compile(block.text, block.place, "exec"), {})


def replace_once(file: Path, old: str, new: str) -> None:
    assert file.read_text().count(old) == 1
    file.write_text(file.read_text().replace(old, new))


def test_an_option_that_changes_the_grid_is_added_as_the_page_tells(
    packaged: Callable[..., Path],
):
    def edit(package: Path) -> None:
        plugin = package / "plugin.py"
        resolve = 'resolve="tove_my_expert.plugin:resolve"'
        options = 'options={"spacing": 1, "rows": 8}'
        assert {options, resolve} <= set(re.findall(r"`([^`]*)`", PUBLISH.read_text()))
        replace_once(plugin, 'options={"spacing": 1}', f"{options}, {resolve}")
        replace_once(package / "expert.py", "spacing: int = 1", "spacing: int = 1, rows: int = 8")
        function = next(b.text for b in PYTHON if b.note == "resolve")
        plugin.write_text(plugin.read_text() + "\n\n" + function)

    packaged(PUBLISH, edit)
    assert resolve_expert(PAGE_EXPERT, rows=4).tokens.num_tokens == 16
    images = torch.zeros(2, 3, 64, 64)
    assert build_expert(PAGE_EXPERT, rows=4)(images).shape == (2, 16, 16)
    assert build_expert(PAGE_EXPERT)(images).shape == (2, 64, 16)
    with pytest.raises(ExpertBuildError, match="rows is 0; give as many"):
        build_expert(PAGE_EXPERT, rows=0)


def test_the_method_s_wheel_is_discovered_and_its_snippets_run(packaged: Callable[[Path], Path]):
    wheel = packaged(PUBLISH_METHOD)
    assert f"dist/{wheel.name}" in PUBLISH_METHOD.read_text()
    entry = discover_methods().get(PAGE_METHOD)
    assert (entry.distribution, entry.version) == ("tove-my-method", "0.1.0")
    for block in BLOCKS:
        if block.note == "after the method":
            exec(compile(block.text, block.place, "exec"), {})


CONFIGS = [b for b in BLOCKS if b.page == PUBLISH_METHOD and "_base_" in b.text]
CONFIGS += [b for b in blocks_of(TEMPLATES[PUBLISH_METHOD] / "README.md") if "_base_" in b.text]


@pytest.mark.parametrize("block", with_ids(CONFIGS))
def test_the_method_s_configs_over_the_demo_s_are_accepted(
    block: Block, packaged: Callable[[Path], Path], tmp_path: Path
):
    packaged(PUBLISH_METHOD)
    file = tmp_path / "over.py"
    file.write_text(block.text.replace("tove-tiny_scenes.py", str(REPOSITORY / DEMO)))
    cfg = load_config(str(file), work_dir=str(tmp_path / "work"))
    assert [entry.spec.name for entry in import_named_methods(cfg)] == [PAGE_METHOD]
    check_run(cfg)
    runner = StagedRunner(cfg)
    for entry in runner.entries:
        runner._build(entry)  # checks what the stage is going to read


def test_two_configs_are_there_to_be_tried():
    assert {block.page.name for block in CONFIGS} == {"publish-a-method.md", "README.md"}


def test_the_method_s_page_tells_the_checks():
    from tove.testing.__main__ import describe

    told = PUBLISH_METHOD.read_text().partition("<!-- method checks -->\n")[2]
    told = told.partition("<!-- end -->")[0]
    assert told.strip() == describe().strip(), "python -m tove.testing prints what is new"
