"""`python -m tove_plugins new`. What it writes is built and used in test_third_party.py."""

from pathlib import Path

import pytest

from tove_plugins import discover
from tove_plugins._cli import main
from tove_plugins._commands._new import LEFTOVERS

TEMPLATE = Path(__file__).parents[3] / "templates/expert"
METHOD_TEMPLATE = Path(__file__).parents[3] / "templates/method"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not LEFTOVERS.intersection(file.parts)
    }


def test_the_template_is_what_it_writes_for_its_own_name(elsewhere: Path) -> None:
    assert main(["new", "my-expert"]) == 0
    assert files_of(elsewhere / "tove-my-expert") == files_of(TEMPLATE)


@pytest.mark.parametrize("name", ["sea-ice", "sea_ice", "tove-sea-ice"])
def test_another_name_is_put_everywhere(elsewhere: Path, name: str) -> None:
    assert main(["new", name]) == 0
    files = files_of(elsewhere / "tove-sea-ice")
    assert len(files) == len(files_of(TEMPLATE))
    assert "src/tove_sea_ice/weights/sea_ice.safetensors" in files
    for path, content in files.items():
        assert "my" not in path
        assert b"my" not in content.lower()
    assert b"class SeaIceExpert(" in files["src/tove_sea_ice/expert.py"]


def test_the_method_s_template_is_what_it_writes_for_its_own_name(elsewhere: Path) -> None:
    assert main(["new", "--method", "my-method"]) == 0
    assert files_of(elsewhere / "tove-my-method") == files_of(METHOD_TEMPLATE)


@pytest.mark.parametrize("name", ["sea-ice", "sea_ice", "tove-sea-ice"])
def test_another_method_s_name_is_put_everywhere(elsewhere: Path, name: str) -> None:
    assert main(["new", "--method", name]) == 0
    files = files_of(elsewhere / "tove-sea-ice")
    assert len(files) == len(files_of(METHOD_TEMPLATE))
    for path, content in files.items():
        assert "my" not in path
        assert b"my" not in content.lower()
    assert b"class SeaIce(ProjectedExperts)" in files["src/tove_sea_ice/method.py"]
    assert b'types=("MODELS.SeaIce",)' in files["src/tove_sea_ice/plugin.py"]
    assert b"check sea_ice" in files[".github/workflows/check.yml"]


def test_it_tells_which_file_of_a_method_to_make_one_s_own(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "--method", "sea-ice"]) == 0
    told = capsys.readouterr().out
    assert "the package of a method called 'sea_ice'" in told
    assert "src/tove_sea_ice/method.py is the model" in told


def test_a_method_s_name_that_cannot_be_is_refused(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", "--method", "Sea Ice"]) == 2
    assert "'Sea Ice' cannot name a method" in capsys.readouterr().err
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("kind", ["expert", "method"])
def test_both_templates_check_themselves_in_their_workflow(kind: str) -> None:
    folder = {"expert": TEMPLATE, "method": METHOD_TEMPLATE}[kind]
    workflow = (folder / ".github/workflows/check.yml").read_text()
    commands = [line.partition("- run: ")[2] for line in workflow.splitlines() if "- run: " in line]
    wanted = ["pip install -e '.[test]'", "pytest", f"python -m tove_plugins check my_{kind}"]
    assert commands == wanted
    assert "<!-- Rewrite this file" in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["dummy-expert", "my-expert-2"])
def test_a_name_that_holds_the_templates_own_is_put_in_once(elsewhere: Path, name: str) -> None:
    assert main(["new", name]) == 0
    package = "tove_" + name.replace("-", "_")
    assert [path.name for path in (elsewhere / f"tove-{name}/src").iterdir()] == [package]
    assert f'"{package}.plugin"' in (elsewhere / f"tove-{name}/pyproject.toml").read_text()


def test_it_tells_what_to_do_next(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "sea-ice", "--to", "a folder"]) == 0
    assert (elsewhere / "a folder/tove-sea-ice/pyproject.toml").is_file()
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert commands == ["  cd 'a folder/tove-sea-ice'", "  pip install -e '.[test]'", "  pytest"]


def test_what_is_there_is_left_alone(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "tove-sea-ice").mkdir()
    assert main(["new", "sea-ice"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert not list((elsewhere / "tove-sea-ice").iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Sea Ice", "lower case"),
        ("2d", "a letter first"),
        ("tove-2d", "a letter first"),
        ("../up", "lower case"),
        ("tiny-depth", "'tiny_depth' is installed here already"),
        ("plugins", "tove_plugins is installed here already"),
    ],
)
def test_a_name_that_cannot_be_is_refused(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert "tiny_depth" in discover().experts
    assert main(["new", name]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert words in told
    assert not list(elsewhere.iterdir())


def test_a_place_that_cannot_be_written_is_told(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (elsewhere / "file").write_text("")
    assert main(["new", "sea-ice", "--to", "file"]) == 2
    assert "cannot be written" in capsys.readouterr().err
