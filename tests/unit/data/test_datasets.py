import copy
import json
import os
import pickle

import pytest
import torch
from mmengine.dataset import ConcatDataset
from PIL import Image
from torch.utils.data import DataLoader

from tove.data import TooManyCorruptImages, tove_collate
from tove.data.view_cache import ViewStore
from tove.errors import ConfigError
from tove.registry import DATASETS, FUNCTIONS


@pytest.fixture
def root(tmp_path):
    """Six images with two captions each (the last has none), two statements each."""
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    images, captions, statements = [], [], []
    for i in range(6):
        name = f"{i:03}.png"
        Image.new("RGB", (30 + i, 20), (40 * i, 0, 0)).save(tmp_path / "images" / name)
        images.append(dict(id=100 + i, file_name=name))
        for j in range(2 if i < 5 else 0):
            captions.append(dict(image_id=100 + i, caption=f" caption\n{j} of  {i}"))
        for label in (0, 1):
            row = dict(image=name, caption=f"The ball {i} is red.", label=label, relation="is")
            statements.append(row)
    captions.append(dict(image_id=100, caption="  "))
    write(tmp_path, "captions", json.dumps(dict(images=images, annotations=captions)))
    write(tmp_path, "statements", "\n".join(map(json.dumps, statements)) + "\n\n")
    return tmp_path


def write(root, kind: str, text: str) -> None:
    (root / "annotations" / f"{kind}_train.json").write_text(text)


def build(root, kind: str = "CocoCaptions", **options):
    files = dict(CocoCaptions="captions", VSRStatements="statements")
    if kind in files:
        options.setdefault("ann_file", f"annotations/{files[kind]}_train.json")
    options.setdefault("image_size", 16)
    return DATASETS.build(dict(type=kind, data_root=str(root), **options))


def spoil(root, *numbers: int) -> None:
    for i in numbers:
        path = root / "images" / f"{i:03}.png"
        path.write_bytes(path.read_bytes()[: 10 * (i % 2)])


def test_training_has_a_sample_per_caption(root) -> None:
    data = build(root)
    assert len(data) == 10
    assert data.num_images == 5
    item = data[3]
    assert item["image"].shape == (3, 16, 16)
    assert item["image"][0].unique().item() == 40
    sample = item["sample"]
    assert (sample["task"], sample["prompt"], sample["target"]) == (
        "caption",
        "a picture of",
        "caption 1 of 1",
    )
    assert sample["references"] == ["caption 0 of 1", "caption 1 of 1"]
    assert sample["image_path"] == str(root / "images" / "001.png")
    assert sample["source_id"] == 101
    assert len({data[i]["sample"]["image_id"] for i in range(10)}) == 5


def test_evaluation_has_a_sample_per_image_with_references(root) -> None:
    data = build(root, test_mode=True)
    assert len(data) == 5
    assert data[4]["sample"]["references"] == ["caption 0 of 4", "caption 1 of 4"]


def test_statements_become_questions(root) -> None:
    data = build(root, "VSRStatements")
    assert len(data) == 12
    sample = data[1]["sample"]
    assert sample["prompt"] == "The ball 0 is red is this true ?"
    assert sample["candidates"] == ["no", "yes"]
    assert (sample["label"], sample["target"], sample["relation"]) == (1, "yes", "is")
    assert data[0]["sample"]["target"] == "no"
    other = build(root, "VSRStatements", prompt="true or false {braces} : {statement} ?")
    assert other[0]["sample"]["prompt"] == "true or false {braces} : The ball 0 is red ?"
    captioned = build(root)[0]["sample"]
    assert captioned["image_id"] == data[0]["sample"]["image_id"]


def test_a_folder_of_images_is_read_recursively_in_order(root) -> None:
    (root / "images" / "a").mkdir()
    Image.new("RGB", (8, 8)).save(root / "images" / "a" / "z.JPG", format="JPEG")
    (root / "images" / "notes.txt").write_text("no image")
    data = build(root, "UnlabelledImages")
    names = [os.path.basename(data[i]["sample"]["image_path"]) for i in range(len(data))]
    assert names == [f"{i:03}.png" for i in range(6)] + ["z.JPG"]
    assert data[0]["sample"]["task"] == "image"


def test_files_that_are_left_out_of_a_folder_are_counted(root, log) -> None:
    folder = root / "images"
    for name in ("a.txt", "b.txt", "c.heic", "LICENSE", ".hidden.jpg"):
        (folder / name).write_text("no image")
    Image.new("RGB", (8, 8)).save(folder / "d.jfif", format="JPEG")
    odd = os.fsencode(folder) + b"/caf\xe9.png"
    with open(odd, "wb") as file:
        file.write((folder / "000.png").read_bytes())
    assert len(build(root, "UnlabelledImages")) == 7
    told = "4 files are no images that can be read: 2 .txt, 1 .heic, 1 without an ending."
    assert len(warnings_about(log, told)) == 1
    odd = "1 images are left out, whose names are not UTF-8, 'caf\\udce9.png'."
    assert len(warnings_about(log, odd)) == 1


def test_a_pipe_among_the_images_is_skipped_as_unreadable(root, log) -> None:
    os.mkfifo(root / "images" / "pipe.jpg")
    data = build(root, "UnlabelledImages", test_mode=True)
    assert [data[i]["sample"].get("skipped", False) for i in range(7)] == [False] * 6 + [True]
    told = f"{root / 'images'}: 1 of its 7 images are not in {root / 'images'}, or no files, and"
    assert len(warnings_about(log, told)) == 1


def test_max_samples_and_concatenation(root) -> None:
    captions = build(root, max_samples=4)
    assert (len(captions), captions.num_images) == (4, 2)
    both = ConcatDataset([captions, build(root, "VSRStatements", max_samples=3)])
    assert [both[i]["sample"]["task"] for i in range(7)] == ["caption"] * 4 + ["statement"] * 3


def test_collate_is_found_by_name(root) -> None:
    assert FUNCTIONS.get("tove_collate") is tove_collate
    batch = next(iter(DataLoader(build(root), batch_size=4, collate_fn=tove_collate)))
    assert batch["images"].shape == (4, 3, 16, 16)
    assert batch["images"].dtype == torch.uint8
    assert len(batch["data_samples"]) == 4


def warnings_about(records, text: str) -> list[str]:
    return [r.getMessage() for r in records if text in r.getMessage()]


def test_missing_images_up_to_the_limit_are_counted_in_a_warning(root, log) -> None:
    for number in (0, 3):
        (root / "images" / f"{number:03}.png").unlink()
    data = build(root, corrupt_limit=2)
    (told,) = warnings_about(log, "2 of its 5 images are not in")
    assert told.startswith(str(root / "annotations/captions_train.json"))
    assert f"are skipped, '{root}/images/000.png', '{root}/images/003.png'." in told
    seen = {os.path.basename(data[i]["sample"]["image_path"]) for i in range(len(data))}
    assert seen == {"001.png", "002.png", "004.png"}
    with pytest.raises(ConfigError, match=r"2 of the 5 images named in .* are not in"):
        build(root, corrupt_limit=1)


def test_corrupt_images_are_named_once_counted_and_replaced_in_training(root, log) -> None:
    spoil(root, 0, 1)
    data = build(root, corrupt_limit=2)
    for _ in range(2):
        items = [data[i] for i in range(10)]
    assert items[0]["image"][0].unique().item() == 80
    assert items[0]["sample"]["target"] == "caption 0 of 2"
    assert not any("skipped" in item["sample"] for item in items)
    assert data.num_corrupt == 2
    assert len(warnings_about(log, "000.png")) == 1
    assert len(warnings_about(log, "001.png")) == 1


def test_in_evaluation_the_replacement_is_marked(root) -> None:
    spoil(root, 1, 4)
    data = build(root, "VSRStatements", test_mode=True)
    skipped = [i for i in range(12) if data[i]["sample"].get("skipped")]
    assert skipped == [2, 3, 8, 9]


def test_too_many_corrupt_images_stop_the_run(root) -> None:
    spoil(root, 0, 1, 2)
    data = build(root, corrupt_limit=2)
    with pytest.raises(TooManyCorruptImages, match="more than corrupt_limit=2"):
        data[0]
    spoil(root, 3, 4, 5)
    with pytest.raises(TooManyCorruptImages):
        build(root, corrupt_limit=99)[0]


def test_workers_share_the_count_of_corrupt_images(root) -> None:
    spoil(root, 0, 4)
    data = build(root, corrupt_limit=2)
    loader = DataLoader(data, batch_size=2, num_workers=2, collate_fn=tove_collate)
    assert sum(len(batch["data_samples"]) for batch in loader) == 10
    assert data.num_corrupt == 2
    spoil(root, 1)
    with pytest.raises(TooManyCorruptImages, match="corrupt_limit=2"):
        data[2]


def test_kept_views_are_decoded_once_and_shared_with_workers(root) -> None:
    data = build(root, "UnlabelledImages", keep_decoded_gb=1e-3)
    loader = DataLoader(data, batch_size=2, num_workers=2, collate_fn=tove_collate)
    first = torch.cat([batch["images"] for batch in loader])
    spoil(root, *range(6))
    second = torch.cat([batch["images"] for batch in loader])
    assert torch.equal(first, second)
    assert data.num_corrupt == 0
    data[0]["image"].fill_(7)  # whoever writes into a view writes into a copy
    assert torch.equal(data[0]["image"], first[0])


def test_a_view_store_keeps_to_its_budget_and_copies_start_empty() -> None:
    store = ViewStore(num_images=10, size=16, max_gb=3 * (3 * 16 * 16 + 1) / 2**30)
    view = torch.randint(0, 255, (3, 16, 16), dtype=torch.uint8)
    for i in range(10):
        store.put(i, view)
    assert [store.get(i) is not None for i in range(10)] == [True] * 3 + [False] * 7
    assert torch.equal(store.get(2), view)
    assert pickle.loads(pickle.dumps(store)).get(0) is None
    assert copy.deepcopy(store).capacity == 3
    assert ViewStore(10, 16, 0.0).get(0) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(data_root="/no/such/folder"), "does not exist"),
        (dict(data_root=None), "has no data_root"),
        (dict(ann_file="annotations/nothing.json"), "annotation file"),
        (dict(img_dir="photos"), "image folder"),
        (dict(view="stretch"), "one of 'crop', 'pad'"),
        (dict(max_samples=-1), r"CocoCaptions\.max_samples is -1, .* \(1 or more\) or None"),
        (dict(max_samples=0), r"max_samples is 0"),
        (dict(max_samples=True), r"max_samples is True"),
        (dict(corrupt_limit=-1), r"corrupt_limit is -1, .* \(0 or more\)"),
        (dict(corrupt_limit=float("nan")), r"corrupt_limit is nan"),
        (dict(keep_decoded_gb=float("nan")), r"keep_decoded_gb is nan"),
        (dict(keep_decoded_gb=float("inf")), r"keep_decoded_gb is inf"),
        (dict(keep_decoded_gb=-1), r"keep_decoded_gb is -1"),
        (dict(image_size=0), r"image_size is 0, .* \(1 or more and 8,192 or less\)"),
        (dict(image_size=2.5), r"image_size is 2\.5"),
    ],
)
def test_what_is_missing_is_told_at_construction(root, options, words) -> None:
    base = dict(data_root=str(root), ann_file="annotations/captions_train.json")
    with pytest.raises(ConfigError, match=words):
        DATASETS.build(dict(type="CocoCaptions", **{**base, **options}))


def test_missing_images_are_told_at_construction(root) -> None:
    for i in range(3):
        (root / "images" / f"{i:03}.png").unlink()
    with pytest.raises(ConfigError, match=r"3 of the 5 images .* first '.*000\.png'"):
        build(root, corrupt_limit=2)
    assert build(root, corrupt_limit=3)[0]["sample"]["target"] == "caption 0 of 3"


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}', '{"images": [{"id": 1}]}', "null"])
def test_a_file_that_is_not_coco_is_refused(root, text) -> None:
    write(root, "captions", text)
    with pytest.raises(ConfigError, match="not a COCO captions file"):
        build(root)


def test_a_file_without_samples_is_refused(root) -> None:
    write(root, "captions", '{"images": [], "annotations": []}')
    with pytest.raises(ConfigError, match="no sample"):
        build(root)
    (root / "empty").mkdir()
    with pytest.raises(ConfigError, match="no sample"):
        build(root, "UnlabelledImages", img_dir="empty")


@pytest.mark.parametrize(
    "line", ["{", '{"image": "000.png", "caption": "x", "label": 2}', '{"caption": "x"}', "[1]"]
)
def test_a_bad_statement_is_named_by_its_line(root, line) -> None:
    path = root / "annotations" / "statements_train.json"
    path.write_text(path.read_text().strip() + f"\n{line}\n")
    with pytest.raises(ConfigError, match="Line 13 of"):
        build(root, "VSRStatements")


def test_a_template_without_its_field_is_refused(root) -> None:
    with pytest.raises(ConfigError, match="statement"):
        build(root, "VSRStatements", prompt="true ?")


def test_a_folder_that_links_to_itself_is_walked_once(root) -> None:
    (root / "images/again").symlink_to(root / "images")
    (root / "images/other").symlink_to(root / "annotations")
    data = build(root, "UnlabelledImages")
    assert len(data) == data.num_images == 6


def test_annotations_in_another_encoding_are_a_sentence(root) -> None:
    path = root / "annotations/statements_train.json"
    path.write_bytes(path.read_bytes().replace(b"ball", b"b\xe4ll"))
    with pytest.raises(ConfigError, match=r"cannot be read .*UTF-8"):
        build(root, "VSRStatements")


def test_images_are_looked_for_by_listing_and_not_one_by_one(root, monkeypatch) -> None:
    asked = []
    for name in ("realpath", "isfile"):
        real = getattr(os.path, name)
        told = lambda path, real=real: asked.append(path) or real(path)  # noqa: E731
        monkeypatch.setattr(os.path, name, told)
    assert len(build(root)) == 10
    assert not [path for path in asked if str(path).endswith(".png")]


def test_a_linked_image_is_the_same_image(root, log) -> None:
    link = root / "images" / "001.png"
    link.unlink()
    link.symlink_to(root / "images" / "000.png")
    data = build(root, test_mode=True)
    assert data[0]["sample"]["image_id"] == data[1]["sample"]["image_id"]
    assert len(warnings_about(log, "1 images are links to others")) == 1


def test_a_linked_image_is_the_image_it_links_to(root) -> None:
    """Held-out images must not count twice, nor be taken for others than those of training."""
    (root / "images/001.png").unlink()
    (root / "images/001.png").symlink_to(root / "images/000.png")
    data = build(root, test_mode=True)
    ids = [data[i]["sample"]["image_id"] for i in range(len(data))]
    assert ids[0] == ids[1] == str((root / "images/000.png").resolve())
    assert len(set(ids)) == 4


def test_a_relation_may_be_missing_or_null(root) -> None:
    rows = [dict(image="000.png", caption="It is red.", label=1, relation=None)]
    rows.append(dict(image="001.png", caption="It is red.", label=1))
    write(root, "statements", "\n".join(map(json.dumps, rows)))
    data = build(root, "VSRStatements")
    assert {data[i]["sample"]["relation"] for i in range(2)} == {"unknown"}


def test_images_that_could_not_be_read_were_not_seen(root) -> None:
    from types import SimpleNamespace

    from tove.engine.images_seen import images_seen

    spoil(root, 1, 3)
    options = dict(data_root=str(root), image_size=16, _scope_="tove")
    files = {kind: f"annotations/{kind}_train.json" for kind in ("captions", "statements")}
    captions = dict(type="CocoCaptions", ann_file=files["captions"], **options)
    statements = dict(type="VSRStatements", ann_file=files["statements"], **options)
    both = ConcatDataset([captions, dict(type="RepeatDataset", times=2, dataset=statements)])
    loader = DataLoader(both, batch_size=4, num_workers=1, collate_fn=tove_collate)
    for _ in loader:
        pass
    seen = images_seen(SimpleNamespace(train_dataloader=loader), 100)
    assert {os.path.basename(path) for path in seen} == {"000.png", "002.png", "004.png", "005.png"}
