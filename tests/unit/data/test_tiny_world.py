"""The tiny world: what users of it rely on."""

import json
import random
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from tove.data.tiny_world.render import GROUND, MISS, SKY, render
from tove.data.tiny_world.rendered import TRAIN_SEED, make_pool
from tove.data.tiny_world.scene import (
    COLOURS,
    FAR,
    MAX_OBJECTS,
    NEAR,
    SHAPES,
    World,
    sample_scenes,
)
from tove.data.tiny_world.text import RELATIONS, questions_of, statements_of, things_of, vocabulary
from tove.data.tiny_world.tokenizer import tiny_tokenizer
from tove.data.tiny_world.write import SPLITS, stream_of, write_scenes
from tove.errors import ConfigError


@pytest.fixture(scope="module")
def world():
    scenes = sample_scenes(3, 0, 160)
    rendered = render(scenes)
    return scenes, rendered, things_of(scenes, rendered)


def test_a_scene_is_the_same_in_whatever_batch_it_is_drawn():
    many, alone = sample_scenes(5, 10, 8), sample_scenes(5, 13, 1)
    assert torch.equal(many[3:4].centre, alone.centre)
    assert torch.allclose(render(many).image[3], render(alone).image[0], atol=1e-5)
    assert not torch.equal(alone.centre, sample_scenes(6, 13, 1).centre)


def test_depth_of_an_object_is_where_its_centre_is(world):
    scenes, rendered, _ = world
    for b in range(40):
        for o in range(MAX_OBJECTS):
            seen = rendered.instance[b] == o
            if seen.sum() < 30:
                continue
            front = rendered.depth[b][seen]
            centre, size = scenes.centre[b, o, 2], scenes.size[b, o]
            assert (front > centre - 1.8 * size).all()
            assert (front < centre + 1.8 * size).all()
            assert NEAR <= centre <= FAR


def test_the_nearest_thing_hides_what_is_behind_it(world):
    _, rendered, _ = world
    assert (rendered.visible <= rendered.covered).all()
    sky = rendered.instance == SKY
    assert (rendered.depth[sky] == MISS).all()
    assert (rendered.depth[rendered.instance == GROUND] < MISS).all()
    assert rendered.image.min() >= 0
    assert rendered.image.max() <= 1


def test_text_alone_tells_nothing(world):
    """Every statement is as often true as false, also given its relation and its words."""
    scenes = sample_scenes(4, 0, 1200)
    things = things_of(scenes, render(scenes))
    labels: dict[str, list[bool]] = defaultdict(list)
    for row in things:
        rng = random.Random(len(labels["all"]))
        for statement in statements_of(row, len(RELATIONS), rng):
            labels["all"].append(statement.label)
            labels[statement.relation].append(statement.label)
            if statement.relation == "count":
                _, _, number, *category = statement.text.split()
                family = "things" if category[-1] == "things" else "shapes"
                labels[f"{number} {family}"].append(statement.label)
    assert set(RELATIONS) < set(labels)
    for key, values in labels.items():
        spread = 4 * (0.25 / len(values)) ** 0.5
        assert abs(sum(values) / len(values) - 0.5) < spread, key


def test_statements_say_what_the_geometry_says(world):
    scenes, _, things = world
    checked = 0
    for b, row in enumerate(things):
        by_name = {t.name: t for t in row}
        for s in statements_of(row, len(RELATIONS), random.Random(b)):
            words = s.text.split()
            if s.relation not in ("behind", "bigger than", "left of", "wider than"):
                continue
            first, second = by_name[" ".join(words[1:3])], by_name[" ".join(words[-2:])]
            value = {
                "behind": lambda t: float(scenes.centre[b, t.slot, 2]),  # noqa: B023
                "bigger than": lambda t: float(scenes.size[b, t.slot]),  # noqa: B023
                "left of": lambda t: -t.x,
                "wider than": lambda t: t.box[2] - t.box[0],
            }[s.relation]
            assert (value(first) > value(second)) == s.label, s
            checked += 1
    assert checked > 100


def test_questions_have_one_answer(world):
    _, _, things = world
    asked = [q for row in things for q in questions_of(row, 4, random.Random(0))]
    assert {q.relation for q in asked} >= {"count", "behind", "left of"}
    for row in things[:50]:
        for q in questions_of(row, 20, random.Random(1)):
            if q.relation == "count":
                number = sum(q.text.split()[2].startswith(t.shape) for t in row)
                assert q.answer == ("no", "one", "two", "three", "four", "five")[number]


def test_the_tokenizer_knows_every_word_and_ends_with_its_highest_id(world):
    _, _, things = world
    tokenizer = tiny_tokenizer()
    texts = [s.text for row in things for s in statements_of(row, len(RELATIONS), random.Random(0))]
    texts += [q.text + " " + q.answer for r in things for q in questions_of(r, 9, random.Random(0))]
    for text in texts:
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids, text
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert len(vocabulary()) == len(set(vocabulary()))


def test_splits_do_not_share_scenes():
    drawn = [sample_scenes(stream_of(split, 0), 0, 20).centre for split in SPLITS]
    drawn.append(sample_scenes(TRAIN_SEED, 0, 20).centre)
    assert len(torch.cat(drawn).flatten(1).unique(dim=0)) == 20 * len(drawn)
    streams = [stream_of(split, seed) for split in SPLITS for seed in range(50)]
    assert len(set(streams)) == len(streams)
    assert 0 not in streams  # the shipped weights have seen that one


def test_written_data_is_what_the_data_sets_read(tmp_path: Path):
    from tove.data import CocoCaptions, UnlabelledImages, VSRStatements

    root = tmp_path / "world"
    write_scenes(root, train=6, unlabelled=4, val=2, test=3, seed=1)
    options = dict(data_root=str(root), image_size=64)
    statements = VSRStatements(
        ann_file="annotations/statements_train.jsonl", img_dir="images", **options
    )
    captions = CocoCaptions(
        ann_file="annotations/captions_test.json", img_dir="images", test_mode=True, **options
    )
    assert len(UnlabelledImages(img_dir="unlabelled", **options)) == 4
    assert len(captions) == 3
    assert {statements.get_data_info(i)["label"] for i in range(len(statements))} == {0, 1}
    pool = make_pool(stream_of("test", 1), 0, 3)
    item = captions[0]
    image = item["images"] if "images" in item else item["image"]
    assert torch.equal(image, pool.images[0])
    assert json.loads((root / "scenes.json").read_text())["test"] == 3


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tove.data.tiny_world import write

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "_save", full)
    with pytest.raises(OSError, match="No space left"):
        write_scenes(tmp_path / "world", train=2, unlabelled=1, val=1, test=1)
    assert not list(tmp_path.iterdir())


def test_a_world_s_scenes_are_within_it_and_else_those_of_the_same_numbers():
    world = World(objects=(4, 5), colours=("cyan", "red"), shapes=("box",), pitch=(0.6, 0.7))
    here, there = sample_scenes(7, 0, 60), sample_scenes(7, 0, 60, world)
    colours = [*COLOURS]
    assert {colours[i] for i in there.colour.flatten().tolist()} == {"cyan", "red"}
    assert set(there.shape.flatten().tolist()) == {SHAPES.index("box")}
    wanted = sample_scenes(7, 0, 60, World(objects=(4, 5))).exists.sum(1)
    assert (wanted >= here.exists.sum(1)).all()  # some find no place
    assert wanted.max() == 5
    assert torch.equal(here.fov, there.fov)
    assert not torch.equal(here.down, there.down)
    whole = World(objects=(2, 5), colours=tuple(COLOURS), shapes=SHAPES)
    assert torch.equal(sample_scenes(7, 0, 60, whole).albedo, here.albedo)


@pytest.mark.parametrize("wrong", [{"objects": (4, 9)}, {"colours": ("pink",)}, {"shapes": ()}])
def test_a_world_that_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ConfigError, match="1 to 5 objects, colours of red"):
        World(**wrong)


def test_shifted_splits_are_the_test_scenes_in_other_worlds(tmp_path):
    counts = dict(train=2, unlabelled=1, val=1, test=4, seed=1)
    plain, shifted = tmp_path / "plain", tmp_path / "shifted"
    write_scenes(plain, **counts)
    write_scenes(shifted, **counts, shifted={"boxes": {"shapes": ["box"]}})
    for path in plain.rglob("*.*"):  # what there is without them stays as it is
        if path.suffix in (".png", ".jsonl", ".json") and path.name != "scenes.json":
            assert (shifted / path.relative_to(plain)).read_bytes() == path.read_bytes()
    assert len(list((shifted / "images").glob("boxes_*.png"))) == 4
    captions = json.loads((shifted / "annotations/captions_boxes.json").read_text())
    told = " ".join(entry["caption"] for entry in captions["annotations"])
    assert "box" in told
    assert "ball" not in told
    assert "cylinder" not in told
    with pytest.raises(ConfigError, match=r"scenes\.shifted\.far\.pich is unknown"):
        write_scenes(tmp_path / "wrong", **counts, shifted={"far": {"pich": [0, 1]}})
