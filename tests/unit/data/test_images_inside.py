"""Annotations name images below the data set's own folders, unless its config says otherwise."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tove.data.conversations import LlavaConversations
from tove.data.vsr import VSRStatements
from tove.errors import ConfigError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data/images/sub").mkdir(parents=True)
    for path in ("secret.png", "data/beside.png", "data/images/a.png", "data/images/sub/b.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / path)
    (tmp_path / "data/images/link.png").symlink_to(tmp_path / "secret.png")
    return tmp_path / "data"


def statements(root: Path, name: str, **options: object) -> VSRStatements:
    row = {"image": name, "caption": "a is b", "label": 1}
    (root / "s.jsonl").write_text(json.dumps(row))
    return VSRStatements(data_root=str(root), ann_file="s.jsonl", image_size=8, **options)


def conversations(root: Path, name: str, **options: object) -> LlavaConversations:
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a"}]
    (root / "c.json").write_text(json.dumps([{"id": 1, "image": name, "conversations": turns}]))
    return LlavaConversations(data_root=str(root), ann_file="c.json", image_size=8, **options)


BOTH = pytest.mark.parametrize("make", [statements, conversations])


@BOTH
@pytest.mark.parametrize("name", ["../../secret.png", "sub/../../../secret.png", "ABSOLUTE"])
def test_what_lies_outside_is_refused_or_asked_for(make, root: Path, name: str):
    name = str(root.parent / "secret.png") if name == "ABSOLUTE" else name
    with pytest.raises(ConfigError, match=r"1 images named in .* outside.*images_anywhere=True"):
        make(root, name)
    assert len(make(root, name, images_anywhere=True)) == 1


@BOTH
@pytest.mark.parametrize(
    "name", ["a.png", "sub/b.png", "sub/../a.png", "../beside.png", "link.png"]
)
def test_what_lies_inside_is_read(make, root: Path, name: str):
    assert len(make(root, name)) == 1


@BOTH
def test_dots_in_a_name_lead_nowhere(make, root: Path):
    Image.new("RGB", (9, 9)).save(root / "images/a..b.png")
    assert len(make(root, "a..b.png")) == 1
