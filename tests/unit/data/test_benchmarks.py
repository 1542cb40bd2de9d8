"""Benchmarks, read from the files of their releases in small."""

import json
import logging
import zipfile

import pytest

from tests.benchmark_files import WRITERS, write_json
from tove.errors import ConfigError
from tove.registry import DATASETS


@pytest.fixture
def build(tmp_path):
    """Write a benchmark's files and build its data set over them."""

    def make(benchmark, split, write=True, **options):
        if write:
            WRITERS[benchmark](tmp_path)
        captions = benchmark in ("karpathy", "nocaps", "visual_genome")
        kind = "BenchmarkCaptions" if captions else "BenchmarkQuestions"
        settings = dict(type=kind, benchmark=benchmark, split=split, data_root=str(tmp_path))
        return DATASETS.build({**settings, "image_size": 8, "test_mode": True, **options})

    return make


def samples(data) -> list[dict]:
    return [data[index]["sample"] for index in range(len(data))]


def test_vqav2_joins_questions_and_answers(build):
    first, second, _ = samples(build("vqav2", "val", prompt="Q: {question} A:"))
    assert first["image_path"].endswith("val2014/COCO_val2014_000000000042.jpg")
    assert (first["task"], first["question_id"], first["target"]) == ("open_question", 420, "dog")
    assert first["prompt"] == "Q: What is number 0? A:"
    assert second["references"] == ["two", "2"] * 5
    assert second["groups"] == ["answer_type/other", "kind/what is"]


def test_vqas_splits_for_the_server_have_questions_only(build):
    data = build("vqav2", "test-dev")
    sample = data[2]["sample"]
    assert sample["image_path"].endswith("test2015/COCO_test2015_000000000043.jpg")
    assert (sample["target"], sample["references"]) == ("", [])
    with pytest.raises(ConfigError, match="nothing can be trained"):
        build("vqav2", "test", write=False, test_mode=False)


def test_okvqa_names_its_kinds(build):
    sample = build("okvqa", "val")[0]["sample"]
    assert sample["groups"][1] == "kind/Vehicles and Transportation"


def test_open_questions_are_ranked_where_a_list_is_given(build, tmp_path):
    given = samples(build("vqav2", "val", answers=["2", "two"]))
    assert [sample["task"] for sample in given] == ["question"] * 3
    assert [sample["label"] for sample in given] == [-1, 1, 1]
    of_train = build("vqav2", "val", answers="train", max_answers=1)[0]["sample"]
    assert of_train["candidates"] == ["two"]  # given twice, dog once
    write_json(tmp_path / "list.json", ["dog"])
    assert build("vqav2", "val", answers="list.json")[0]["sample"]["label"] == 0
    with pytest.raises(ConfigError, match="is empty"):
        build("vqav2", "val", answers=[])


def test_textvqa_and_vizwiz(build):
    text = build("textvqa", "val")[0]["sample"]
    assert text["image_path"].endswith("train_images/000f.jpg")
    assert (text["target"], len(text["references"])) == ("levi's", 10)
    assert build("textvqa", "test")[0]["sample"]["references"] == []
    photo = build("vizwiz", "val")[1]["sample"]
    assert photo["image_path"].endswith("val/VizWiz_val_00000001.jpg")
    assert (photo["question_id"], photo["target"]) == ("VizWiz_val_00000001.jpg", "cup")
    assert build("vizwiz", "test")[0]["sample"]["target"] == ""


def test_gqa_has_what_its_scores_need(build, tmp_path):
    first, second = samples(build("gqa", "val_balanced"))
    assert first["image_path"].endswith("images/n161313.jpg")
    assert first["groups"] == ["form/open", "structural/query", "semantic/attr"]
    assert second["groups"][0] == "form/binary"
    about = first["about"]
    assert about["entailed"] == ["20130721"]  # but itself
    assert about["choices"] == str(tmp_path / "val_balanced_choices.json")
    assert build("gqa", "testdev_balanced")[0]["sample"]["about"]["choices"] is None
    whole = samples(build("gqa", "train_all"))
    assert [sample["target"] for sample in whole] == ["red", "yes"]
    assert build("gqa", "submission_all")[0]["sample"]["target"] == ""


def test_popes_splits_ask_the_same_and_stay_apart(build):
    found = [build("pope", split)[1]["sample"] for split in ("random", "popular")]
    assert found[0]["candidates"] == ["yes", "no"]
    assert (found[0]["label"], found[0]["target"]) == (0, "yes")
    assert [sample["source_id"] for sample in found] == ["random 2", "popular 2"]


def test_mme_is_read_in_both_its_layouts(build, log):
    found = samples(build("mme", "test"))
    assert len(found) == 10
    paths = {sample["image_path"].partition("test_mme")[2].partition("/")[2] for sample in found}
    assert paths == {
        "count/000.jpg",
        "count/001.jpg",
        "scene/images/s0.jpg",
        "scene/images/s1.jpg",
        "code_reasoning/1.png",
    }
    assert found[0]["prompt"] == "Is it a cat? Please answer yes or no."
    assert [sample["target"] for sample in found[:2]] == ["yes", "no"]
    assert {s["groups"][0] for s in found} == {
        "perception/count",
        "perception/scene",
        "cognition/code_reasoning",
    }


def test_scienceqa_asks_what_has_an_image(build):
    prompt = "{hint} {question} {choices}"
    found = samples(build("scienceqa", "test", prompt=prompt))
    assert [sample["question_id"] for sample in found] == ["3", "2", "1"]
    last = found[-1]
    assert last["prompt"] == "Look at the picture. Which of these is a plant? cat, fern, rock"
    assert (last["candidates"], last["label"]) == (["cat", "fern", "rock"], 1)
    assert last["groups"] == ["subject/NAT", "context/IMG", "context/TXT", "grade/G1-6"]
    assert found[0]["groups"][-1] == "grade/G7-12"


def test_cvbench_reads_the_letter(build):
    sample = build("cvbench", "3d")[1]["sample"]
    assert (sample["target"], sample["label"], sample["question_id"]) == ("2", 2, "3d/1")
    assert sample["groups"] == ["task/Depth", "type/3D", "source/Omni3D"]


def test_karpathys_training_has_the_rest_of_val(build):
    test = samples(build("karpathy", "test"))
    assert [sample["source_id"] for sample in test] == [1003, 1004]
    assert test[0]["references"] == [f"A cat on mat {number}." for number in range(5)]
    train = build("karpathy", "train", test_mode=False)
    assert len(train) == 10
    assert train[9]["sample"]["image_path"].endswith("val2014/COCO_val2014_000000000001.jpg")


def test_nocaps_has_domains_and_a_split_for_the_server(build):
    val = samples(build("nocaps", "val"))
    assert [sample["relation"] for sample in val[:3]] == ["in-domain", "near-domain", "out-domain"]
    assert val[4]["references"] == ["a cat on a mat", "thing number 4 there"]
    test = samples(build("nocaps", "test"))
    assert [sample["references"] for sample in test] == [[]] * 6
    assert test[5]["image_path"].endswith("test/0000000000000005.jpg")
    with pytest.raises(ConfigError, match="nothing can be trained"):
        build("nocaps", "test", test_mode=False)


def test_visual_genomes_phrases_are_captions(build):
    data = build("visual_genome", "train", test_mode=False)
    found = samples(data)
    assert len(found) == 6
    assert found[0]["image_path"].endswith("VG_100K_2/1.jpg")
    assert found[5]["target"] == "a red cup 2"


def test_annotations_are_read_from_their_archive(build, tmp_path):
    WRITERS["vqav2"](tmp_path)
    for name in ("OpenEnded_mscoco_val2014_questions", "mscoco_val2014_annotations"):
        file = tmp_path / f"v2_{name}.json"
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.write(file, file.name)
        file.unlink()
    assert len(build("vqav2", "val", write=False)) == 3


@pytest.mark.parametrize(
    ("benchmark", "split", "file", "spoil", "sentence"),
    [
        ("vqav2", "val", "v2_OpenEnded_mscoco_val2014_questions.json", "question_id", "Entry 1"),
        ("vqav2", "val", "v2_OpenEnded_mscoco_val2014_questions.json", "data_subtype", "Entry 1"),
        ("vqav2", "val", "v2_mscoco_val2014_annotations.json", "answers", "a VQA annotation"),
        ("textvqa", "val", "TextVQA_0.5.1_val.json", "image_id", "a TextVQA question"),
        ("vizwiz", "val", "Annotations/val.json", "question", "a VizWiz question"),
        ("gqa", "val_balanced", "val_balanced_questions.json", "entailed", "a GQA question"),
        ("pope", "random", "coco_pope_random.json", "label", "Line 1 .* a POPE question"),
        ("scienceqa", "test", "problems.json", "choices", "number of ScienceQA"),
        ("cvbench", "2d", "test_2d.jsonl", "choices", "a CV-Bench question"),
        ("karpathy", "test", "dataset_coco.json", "filename", "an image of Karpathy's"),
        ("nocaps", "val", "nocaps_val_4500_captions.json", "caption", "a caption of NoCaps"),
        ("visual_genome", "train", "region_descriptions.json", "regions", "Visual Genome"),
    ],
)
def test_a_missing_key_is_a_sentence(build, tmp_path, benchmark, split, file, spoil, sentence):
    WRITERS[benchmark](tmp_path)
    path = tmp_path / file
    path.write_text(path.read_text().replace(f'"{spoil}"', '"gone"'))
    with pytest.raises(ConfigError, match=f"{sentence}.*{spoil}"):
        build(benchmark, split, write=False)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows.append(rows[0]), r"1 ids of the 4 annotations .* more than once, 420"),
        (
            lambda rows: rows.pop(),
            r"1 of the 3 questions have no annotation in .*annotations\.json",
        ),
        (
            lambda rows: rows[0].update(question_id="420"),
            r"\(0 of 3 questions and 1 of 3 annotations have a text\)",
        ),
        (lambda rows: rows[0].update(question_id=None), r"Entry 1 of .* a VQA annotation.*is None"),
    ],
)
def test_answers_that_are_nobodys_or_twice_there_are_not_guessed(build, tmp_path, change, sentence):
    WRITERS["vqav2"](tmp_path)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    change(content["annotations"])
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=sentence):
        build("vqav2", "val", write=False)


def test_answers_to_no_question_are_counted_in_a_warning(build, tmp_path, log):
    WRITERS["vqav2"](tmp_path)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    content["annotations"].append({**content["annotations"][0], "question_id": 7})
    path.write_text(json.dumps(content))
    assert len(build("vqav2", "val", write=False)) == 3
    (told,) = [r.getMessage() for r in log if r.levelno >= logging.WARNING]
    assert told == f"{path}: 1 annotations belong to none of the questions."


def test_other_mistakes_are_sentences(build, tmp_path):
    with pytest.raises(ConfigError, match=r"no benchmark of questions 'vqa'.*vqav2"):
        build("vqa", "val", write=False)
    with pytest.raises(ConfigError, match=r"no split of vqav2 'vall'.*val"):
        build("vqav2", "vall", write=False)
    with pytest.raises(ConfigError, match="lacks the field"):
        build("vqav2", "val", prompt="what ?")
    with pytest.raises(ConfigError, match="no folder of MME's subtasks"):
        build("mme", "test", write=False)
    with pytest.raises(ConfigError, match=r"no annotation file .*pope_random\.json'; put it"):
        build("pope", "random", write=False)
    with pytest.raises(ConfigError, match=r"There is no .*, which should be the questions file"):
        build("textvqa", "val", write=False)
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations/val.json").write_text('{"image": ')
    with pytest.raises(ConfigError, match="is not VizWiz's file"):
        build("vizwiz", "val", write=False)
    (tmp_path / "Annotations/val.json").write_text(json.dumps({"data": []}))
    with pytest.raises(ConfigError, match="is no list"):
        build("vizwiz", "val", write=False)
