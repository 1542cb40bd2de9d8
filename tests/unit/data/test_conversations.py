import json
import multiprocessing
import os
import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tove.config.validation import check_arguments
from tove.data import conversation_index, tove_collate
from tove.data.conversation_index import ConversationIndex
from tove.data.conversations import LlavaConversations
from tove.data.image_io import TooManyCorruptImages
from tove.data.samplers import ModalityLengthSampler
from tove.errors import ConfigError
from tove.modules.tiles import num_packed_tokens, pack_images
from tove.registry import DATASETS


def turns(*texts):
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


RECORDS = [
    {"id": "a", "image": "red.png", "conversations": turns("<image>\nWhat colour?", "It is red.")},
    {"id": 7, "conversations": turns("Häßlich heißt?", "ugly 日本", "And <image>?", "A tag.")},
    {
        "id": "c",
        "image": ["sub/wide.png", "red.png"],
        "conversations": turns("<image> or <image>", 'the "left" } ] one'),
    },
]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images/sub").mkdir(parents=True)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "images/red.png")
    Image.new("RGB", (40, 20), "blue").save(tmp_path / "images/sub/wide.png")
    write(tmp_path, RECORDS)
    return tmp_path


def write(root, records, **options):
    text = json.dumps(records, **options)
    (root / "chat.json").write_text(text, encoding="utf-8")


def build(root, **options):
    kind = dict(type="LlavaConversations", data_root=str(root), ann_file="chat.json")
    return DATASETS.build({**kind, "image_size": 16, **options})


def test_a_sample_has_its_turns_and_the_views_of_its_images(root) -> None:
    data = build(root, view="pad")
    assert len(data) == 3
    one, none, two = (data[i] for i in range(3))
    assert one["sample"]["conversations"] == RECORDS[0]["conversations"]
    assert one["images"].shape == (1, 3, 16, 16)
    assert one["images"][0, :, 8, 8].tolist() == [255, 0, 0]
    assert none["images"].shape == (0, 3, 16, 16)
    assert none["sample"]["image_paths"] == []
    assert two["sample"]["image_paths"] == [
        str(root / "images/sub/wide.png"),
        str(root / "images/red.png"),
    ]
    assert two["images"][:, :, 8, 8].tolist() == [[0, 0, 255], [255, 0, 0]]
    assert two["content"].tolist() == [[0, 4, 16, 12], [0, 0, 16, 16]]
    assert [view["size"] for view in two["sample"]["views"]] == [(20, 40), (20, 20)]


@pytest.mark.parametrize(
    "options", [{}, {"ensure_ascii": False}, {"indent": 1}, {"separators": (",", ":")}]
)
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_records_are_found_however_the_file_is_written(root, options, piece, monkeypatch) -> None:
    monkeypatch.setattr(conversation_index, "_PIECE", piece)
    write(root, RECORDS, **options)
    data = build(root)
    assert [data.get_data_info(i)["conversations"] for i in range(3)] == [
        record["conversations"] for record in RECORDS
    ]
    assert data.modality_lengths().tolist() == [6, -8, 8]
    assert data.num_images == 2
    assert [data.index.images_of(i) for i in range(3)] == [[0], [], [1, 0]]
    assert [os.path.relpath(path, root) for path in data.image_paths()] == [
        "images/red.png",
        "images/sub/wide.png",
    ]


def test_a_byte_order_mark_and_space_are_passed_over(root) -> None:
    (root / "chat.json").write_bytes(
        b"\xef\xbb\xbf \n" + json.dumps(RECORDS, ensure_ascii=False).encode() + b"\n\n"
    )
    assert build(root).get_data_info(2)["conversations"] == RECORDS[2]["conversations"]


def test_the_index_is_read_again_and_made_anew_when_the_file_changes(root, monkeypatch) -> None:
    first = ConversationIndex(root / "chat.json")
    stamp = os.stat(root / "chat.json").st_mtime
    with monkeypatch.context() as patch:
        patch.setattr(conversation_index, "_write", None)
        assert ConversationIndex(root / "chat.json").digest == first.digest
        os.utime(root / "chat.json", (stamp + 9, stamp + 9))  # touched: the digest tells
        assert ConversationIndex(root / "chat.json").digest == first.digest
    text = (root / "chat.json").read_text()
    (root / "chat.json").write_text(text.replace("It is red.", "It is RED."))
    changed = build(root)
    assert changed.index.digest != first.digest
    assert changed.get_data_info(0)["conversations"][1]["value"] == "It is RED."


def test_a_damaged_index_is_made_anew(root) -> None:
    build(root)
    index = next(root.glob(".chat.json.index"))
    index.write_bytes(index.read_bytes()[:20])
    assert build(root).num_images == 2


def test_the_index_can_lie_elsewhere(root, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("index")
    build(root, index_dir=str(folder))
    assert [path.name for path in folder.iterdir()] == [".chat.json.index"]
    assert not list(root.glob(".*"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1}', "no list"),
        ("[1, 2]", "no list of objects"),
        ("[]", "holds no conversation"),
        ("", "at byte 0"),
        ('[{"id": 1, "conversations": []}]', "Record 0"),
        ('[{"id": 1, "conversations": [{"from": "user", "value": ""}]}]', "Record 0"),
        ('[{"id": 1, "conversations": [{"from": "system", "value": "x"}, '
         '{"from": "gpt", "value": "y"}]}]', "'system'"),
        ('[{"id": 1, "image": 3, "conversations": [{"from": "gpt", "value": "y"}]}]', "image is 3"),
        (json.dumps(RECORDS)[:-9], "is damaged"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_refused_at_once(root, text, told) -> None:
    (root / "chat.json").write_text(text)
    with pytest.raises(ConfigError, match=told):
        build(root)


def test_images_without_their_marker_are_refused_at_once(root) -> None:
    bad = {"id": "z9", "image": "red.png", "conversations": turns("What?", "Red.")}
    write(root, [*RECORDS, bad])
    with pytest.raises(ConfigError, match=r"1 of the 4 .* 'z9' \(1 images, 0 <image>\)"):
        build(root)


def test_a_missing_file_is_one_sentence(root) -> None:
    with pytest.raises(ConfigError, match="set ann_file"):
        build(root, ann_file="nowhere.json")
    with pytest.raises(ConfigError, match="'crop', 'pad', 'anyres'"):
        build(root, view="fisheye")


def test_a_sample_that_cannot_be_read_gives_way_to_the_next(root) -> None:
    (root / "images/red.png").write_bytes(b"nothing")
    data = build(root)
    assert data[0]["sample"]["source_id"] == 7
    assert data[2]["sample"]["source_id"] == 7
    assert data.num_corrupt == 1
    assert [data.is_corrupt(i) for i in range(3)] == [True, False, True]
    assert build(root, test_mode=True)[0]["sample"]["skipped"] is True
    with pytest.raises(TooManyCorruptImages, match="more than corrupt_limit=0"):
        build(root, corrupt_limit=0)[0]


def test_images_are_told_as_missing_misnamed_of_another_kind_or_damaged(root) -> None:
    folder = root / "images"
    Image.new("P", (9, 9)).save(folder / "ocr.gif")
    Image.new("P", (9, 9)).save(folder / "really_a.gif")
    os.rename(folder / "really_a.gif", folder / "really_a.jpg")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:2000])
    (folder / "empty.jpg").write_bytes(b"")
    names = ["red.png", "ocr.jpg", "really_a.jpg", "cut.jpg", "empty.jpg", "gone.jpg"]
    records = [
        {"id": i, "image": name, "conversations": turns("<image>", "x")}
        for i, name in enumerate(names)
    ]
    write(root, records)
    data = build(root)
    quick, whole = data.check_images(), data.check_images(decode=True)
    path = {name: str(folder / name) for name in [*names, "ocr.gif"]}
    for report in (quick, whole):
        assert report.num_images == 6
        assert report.missing == [path["gone.jpg"]]
        assert report.misnamed == {path["ocr.jpg"]: path["ocr.gif"]}
        assert report.other_kind == {path["really_a.jpg"]: "GIF"}
    assert list(quick.corrupt) == [path["empty.jpg"]]
    assert list(whole.corrupt) == [path["cut.jpg"], path["empty.jpg"]]
    assert whole.num_unreadable == 3
    assert "1 missing, first" in str(whole)
    assert data[1]["sample"]["source_id"] == 1  # the misnamed one is read


def test_a_batch_may_have_no_image_at_all(root) -> None:
    data = build(root)
    batch = tove_collate([data[2], data[1], data[0]])
    assert batch["images"].shape == (3, 3, 16, 16)
    assert batch["owner"].tolist() == [0, 0, 2]
    assert [sample["source_id"] for sample in batch["data_samples"]] == ["c", 7, "a"]
    batch = tove_collate([data[1], data[1]])
    assert batch["images"].shape == (0, 3, 16, 16)
    assert batch["images"].dtype == torch.uint8
    assert batch["content"].shape == (0, 4)
    assert batch["owner"].shape == (0,)


def test_tiles_of_a_batch_become_the_tokens_of_its_images(root) -> None:
    data = build(root, view={"type": "anyres", "grids": [(1, 2), (2, 2)]})
    batch = tove_collate([data[i] for i in (0, 1, 2)])
    views = [view for sample in batch["data_samples"] for view in sample["views"]]
    assert [view["tiles"] for view in views] == [(2, 2), (1, 2), (2, 2)]
    assert batch["images"].shape == (5 + 3 + 5, 3, 16, 16)
    assert batch["owner"].tolist() == [0] * 5 + [2] * 8
    tokens, newline = torch.randn(13, 4, 6), torch.randn(6)
    images = pack_images(tokens, batch["data_samples"], (2, 2), newline)
    assert [len(image) for image in images] == [
        num_packed_tokens(view["size"], view["tiles"], (2, 2)) for view in views
    ]
    assert torch.equal(images[1][:4], tokens[5])
    nothing = tove_collate([data[1]])
    newline.requires_grad_()
    packed = pack_images(torch.empty(0, 4, 6), nothing["data_samples"], (2, 2), newline)
    assert packed.shape == (0, 4, 6)
    packed.sum().backward()
    assert newline.grad.tolist() == [0] * 6
    padded = tove_collate([build(root, view="pad")[2]])
    alone = pack_images(tokens[:2], padded["data_samples"], (2, 2))
    assert all(torch.equal(*both) for both in zip(alone, tokens[:2], strict=True))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same(root, method) -> None:
    data = build(root)
    data.get_data_info(0)  # opens the file in this process
    loader = DataLoader(
        data,
        batch_size=1,
        num_workers=2,
        collate_fn=tove_collate,
        multiprocessing_context=multiprocessing.get_context(method),
    )
    seen = [batch["data_samples"][0]["conversations"] for batch in loader]
    assert seen == [record["conversations"] for record in RECORDS]
    assert pickle.loads(pickle.dumps(data)).get_data_info(1)["source_id"] == 7


def test_several_files_share_one_loader_and_its_order_by_modality(root) -> None:
    settings = dict(type="tove.LlavaConversations", data_root=str(root), image_size=16)
    both = DATASETS.build(
        dict(type="ConcatDataset", datasets=[dict(settings, ann_file="chat.json")] * 2)
    )
    assert len(both) == 6
    assert both[4]["sample"]["source_id"] == 7
    sampler = ModalityLengthSampler(both, batch_size=2, seed=0)
    loader = DataLoader(both, batch_size=2, sampler=sampler, collate_fn=tove_collate)
    batches = list(islice(loader, 6))
    kinds = [{bool(s["image_paths"]) for s in batch["data_samples"]} for batch in batches]
    assert sorted(map(list, kinds)) == [[False]] * 2 + [[True]] * 4


def test_opening_reads_no_record_and_a_worker_is_sent_none(root, monkeypatch) -> None:
    many = [dict(RECORDS[0], id=i) for i in range(20_000)]
    write(root, many)
    build(root)
    monkeypatch.setattr(conversation_index, "_records", None)  # a second look needs none
    data = LlavaConversations(str(root), "chat.json", max_samples=15_000)
    assert len(data) == 15_000 == len(data.modality_lengths())
    assert data.get_data_info(14_999)["source_id"] == 14_999
    assert len(pickle.dumps(data.index)) < 1000  # what a spawned worker is sent


def test_numbers_out_of_range_are_told_before_a_file_is_opened():
    for name, value in {"max_samples": -1, "corrupt_limit": -1, "image_size": 0}.items():
        with pytest.raises(ConfigError, match=f"dataset.{name} is {value}"):
            check_arguments(LlavaConversations, {name: value}, "dataset")
