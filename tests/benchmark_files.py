"""Writes each benchmark in small, in the files and keys of its release."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

__all__ = ["WRITERS", "jpeg", "shards", "tar", "write_json"]


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), (90, 120, 200)).save(path)


def people(*answers: str) -> list[dict]:
    given = [answers[number % len(answers)] for number in range(10)]
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number + 1}
        for number, answer in enumerate(given)
    ]


def vqa(root: Path, prefix: str = "v2_", kinds: dict | None = None) -> None:
    about = {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}}
    for year in ("train2014", "val2014", "test2015", "test-dev2015"):
        folder = year.replace("-dev", "")
        questions, annotations = [], []
        for number in range(3):
            ids = {"image_id": 42 + number // 2, "question_id": 420 + number}
            photo(root / folder / f"COCO_{folder}_{ids['image_id']:012d}.jpg")
            questions.append({**ids, "question": f"What is\nnumber {number}?"})
            found = people("two", "2") if number else people("dog")
            kind = {"question_type": "one" if kinds else "what is", "answer_type": "other"}
            annotations.append({**ids, **kind, "answers": found, "multiple_choice_answer": "x"})
        file = {**about, "data_subtype": year, "questions": questions}
        write_json(root / f"{prefix}OpenEnded_mscoco_{year}_questions.json", file)
        if "test" not in year:
            file = {**about, "data_subtype": year, "annotations": annotations}
            file |= {"question_types": kinds} if kinds else {}
            write_json(root / f"{prefix}mscoco_{year}_annotations.json", file)


def okvqa(root: Path) -> None:
    vqa(root, "", {"one": "Vehicles and Transportation"})


def textvqa(root: Path) -> None:
    for split, folder in (
        ("train", "train_images"),
        ("val", "train_images"),
        ("test", "test_images"),
    ):
        rows = []
        for number in range(3):
            photo(root / folder / f"00{number}f.jpg")
            row = {"question": "what brand?", "image_id": f"00{number}f", "question_id": number}
            row |= {"image_classes": ["Shirt"], "set_name": split}
            rows.append(row if split == "test" else {**row, "answers": ["levi's"] * 9 + ["x"]})
        write_json(root / f"TextVQA_0.5.1_{split}.json", {"dataset_type": split, "data": rows})


def vizwiz(root: Path) -> None:
    for split in ("train", "val", "test"):
        rows = []
        for number in range(3):
            name = f"VizWiz_{split}_{number:08d}.jpg"
            photo(root / split / name)
            row = {"image": name, "question": "What is this?"}
            answers = [{"answer": "cup", "answer_confidence": "yes"}] * 10
            known = {"answers": answers, "answer_type": "other", "answerable": 1}
            rows.append(row if split == "test" else row | known)
        write_json(root / f"Annotations/{split}.json", rows)


def gqa(root: Path) -> None:
    photo(root / "images/n161313.jpg")
    rows = {}
    for number, (structural, answer) in enumerate((("query", "red"), ("verify", "yes"))):
        rows[f"2013072{number}"] = {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "cup"}],
            "entailed": ["20130720", "20130721"],
            "equivalent": [f"2013072{number}"],
            "question": "What color is the cup?",
            "imageId": "n161313",
            "isBalanced": True,
            "groups": {"global": "color", "local": "14-cup_color"},
            "answer": answer,
            "fullAnswer": "It is red.",
            "types": {"detailed": "color", "semantic": "attr", "structural": structural},
        }
    for split in ("train_balanced", "val_balanced", "testdev_balanced"):
        write_json(root / f"{split}_questions.json", rows)
    for number, (key, row) in enumerate(rows.items()):
        write_json(root / f"train_all_questions/train_all_questions_{number}.json", {key: row})
    asked = {key: {"question": row["question"], "imageId": "n161313"} for key, row in rows.items()}
    write_json(root / "submission_all_questions.json", asked)
    both = {"valid": ["red", "yes", "no"], "plausible": ["red", "yes"]}
    write_json(root / "val_balanced_choices.json", {key: both for key in rows})


def pope(root: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        rows = []
        for number in range(4):
            name = f"COCO_val2014_{number // 2:012d}.jpg"
            photo(root / "val2014" / name)
            text = f"Is there a cat in the {'image' if number % 2 else 'imange'}?"
            label = "yes" if number % 2 else "no"
            rows.append({"question_id": number + 1, "image": name, "text": text, "label": label})
        write_lines(root / f"coco_pope_{split}.json", rows)


def mme(root: Path) -> None:
    lines = "Is it a cat? Please answer yes or no.\tYes\nIs it a dog?\tNo\n"
    for number in range(2):
        photo(root / f"count/00{number}.jpg")
        (root / f"count/00{number}.txt").write_text(lines)
        photo(root / f"scene/images/s{number}.jpg")
        text = root / f"scene/questions_answers_YN/s{number}.txt"
        text.parent.mkdir(exist_ok=True)
        text.write_text(lines)
    photo(root / "code_reasoning/1.png")
    (root / "code_reasoning/1.txt").write_text(lines)


def scienceqa(root: Path) -> None:
    problems = {}
    for number in range(4):
        problems[str(number)] = {
            "question": "Which of these is a plant?",
            "choices": ["cat", "fern", "rock"],
            "answer": 1,
            "hint": "Look at\nthe picture." if number == 1 else "",
            "image": "image.png" if number else None,
            "task": "closed choice",
            "grade": f"grade{5 + number}",
            "subject": "natural science",
            "topic": "biology",
            "category": "Plants",
            "skill": "Identify plants",
            "lecture": "",
            "solution": "",
            "split": "test",
        }
        if number:
            photo(root / f"images/test/{number}/image.png")
    write_json(root / "problems.json", problems)
    splits = {"train": [], "val": [], "test": ["3", "2", "1", "0"]}
    write_json(root / "pid_splits.json", splits)


def cvbench(root: Path) -> None:
    for kind, source, task in (("2D", "ADE20K", "Count"), ("3D", "Omni3D", "Depth")):
        rows = []
        for number in range(2):
            name = f"img/{kind}/{task.lower()}/{source.lower()}_{number}.png"
            photo(root / name)
            row = {"idx": number, "type": kind, "task": task, "filename": name, "source": source}
            row |= {"question": "How many?", "choices": ["0", "1", "2"], "answer": "(C)"}
            rows.append({**row, "prompt": "How many? Select ...", "bbox": None})
        write_lines(root / f"test_{kind.lower()}.jsonl", rows)


def karpathy(root: Path) -> None:
    images = []
    for number, split in enumerate(("train", "restval", "val", "test", "test")):
        folder = "train2014" if split == "train" else "val2014"
        name = f"COCO_{folder}_{number:012d}.jpg"
        photo(root / folder / name)
        sentences = [
            {
                "tokens": ["a", "cat"],
                "raw": f"A  cat on mat {text}.",
                "imgid": number,
                "sentid": text,
            }
            for text in range(5)
        ]
        images.append(
            {
                "filepath": folder,
                "sentids": list(range(5)),
                "filename": name,
                "imgid": number,
                "split": split,
                "sentences": sentences,
                "cocoid": 1000 + number,
            }
        )
    write_json(root / "dataset_coco.json", {"images": images, "dataset": "coco"})


def nocaps(root: Path) -> None:
    images, annotations = [], []
    for number in range(6):
        name, domain = f"{number:016x}.jpg", ("in-domain", "near-domain", "out-domain")[number % 3]
        image = {"id": number, "open_images_id": name[:-4], "file_name": name, "domain": domain}
        images.append({**image, "height": 20, "width": 24, "license": 0, "coco_url": "http://x/y"})
        photo(root / "val" / name)
        photo(root / "test" / name)
        for text in ("a cat on a mat", f"thing number {number} there"):
            annotation = {"image_id": number, "id": len(annotations), "caption": text}
            annotations.append(annotation)
    about = {"licenses": [], "info": {}, "images": images}
    write_json(root / "nocaps_val_4500_captions.json", {**about, "annotations": annotations})
    write_json(root / "nocaps_test_image_info.json", about)


def visual_genome(root: Path) -> None:
    rows = []
    for number, folder in ((1, "VG_100K_2"), (2, "VG_100K")):
        photo(root / folder / f"{number}.jpg")
        box = {"width": 5, "height": 5, "x": 1, "y": 1, "image_id": number}
        regions = [
            {**box, "region_id": 10 * number + text, "phrase": f"a red cup {text}"}
            for text in range(3)
        ]
        rows.append({"id": number, "regions": regions})
    write_json(root / "region_descriptions.json", rows)


def vsr(root: Path) -> None:
    for kind in ("random", "zeroshot"):
        for first, split in enumerate(("train", "dev", "test")):
            rows = []
            for number in range(2):
                name = f"{10 * first + number:012d}.jpg"
                photo(root / "images" / name)
                row = {"image": name, "caption": "The cat is left of the mat.", "label": number}
                row |= {"relation": "left of", "image_link": f"http://x/train2017/{name}"}
                votes = {"vote_true_validator_id": [2, 6], "vote_false_validator_id": []}
                rows.append({**row, "annotator_id": 31, **votes})
            write_lines(root / f"splits/{kind}/{split}.jsonl", rows)


def jpeg(red: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (24, 20), (red, 90, 120)).save(stream, "JPEG")
    return stream.getvalue()


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


def shards(folder: Path, sizes: list[int], prefix: str = "") -> None:
    """Write tars as img2dataset does, with its statistics beside them."""
    for shard, size in enumerate(sizes):
        members = []
        for number in range(size):
            key, text = f"{shard:05d}{number:04d}", f"{prefix}picture {shard}.{number}"
            about = {"caption": text, "url": "http://x/y", "key": key, "status": "success"}
            members += [
                (f"{key}.jpg", jpeg(10 * shard + number)),
                (f"{key}.json", json.dumps(about).encode()),
                (f"{key}.txt", text.encode()),
            ]
        tar(folder / f"{shard:05d}.tar", members)
        told = {"count": size + 1, "successes": size, "failed_to_download": 1}
        write_json(folder / f"{shard:05d}_stats.json", told)


WRITERS: dict[str, Callable[[Path], None]] = {
    "vqav2": vqa,
    "okvqa": okvqa,
    "textvqa": textvqa,
    "vizwiz": vizwiz,
    "gqa": gqa,
    "pope": pope,
    "mme": mme,
    "scienceqa": scienceqa,
    "cvbench": cvbench,
    "karpathy": karpathy,
    "nocaps": nocaps,
    "visual_genome": visual_genome,
    "vsr": vsr,
}
