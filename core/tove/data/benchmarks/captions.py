"""Captions as they are published elsewhere than in COCO's own files.

Karpathy's split of COCO, NoCaps with its domains, Visual Genome's regions (a phrase is a caption of
the whole image, as BLIP and Prismer train on it).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from tove.data.annotations import Texts, read_json, text_of
from tove.data.benchmarks.files import listed, make_each, pick
from tove.data.coco_captions import Captions, CocoCaptions, captions_of
from tove.errors import ConfigError
from tove.registry import DATASETS

__all__ = ["CAPTION_FORMATS", "BenchmarkCaptions", "CaptionFormat"]


@dataclass(frozen=True, slots=True)
class CaptionFormat:
    """How captions are published.

    Attributes:
        read: of a file, its folder of images and the split.
        splits: the file of each split.
    """

    read: Callable[[str, str, str], Captions]
    splits: Mapping[str, str]


def _karpathy(path: str, folder: str, split: str) -> Captions:
    """Read dataset_coco.json (Karpathy and Fei-Fei, arXiv 1412.2306); `train` has restval too."""
    wanted = ("train", "restval") if split == "train" else (split,)
    entries = listed(path, read_json(path, "Karpathy's dataset_coco.json", _lean), "images")

    def make(entry: dict[str, Any]) -> tuple[Any, str, list[str]] | None:
        if entry["split"] not in wanted:
            return None
        name = f"{text_of(entry, 'filepath')}/{text_of(entry, 'filename')}"
        return entry["cocoid"], name, [_words(raw) for raw in entry["sentences"]]

    what = "an image of Karpathy's: it needs filepath, filename, cocoid, split and sentences"
    made = [image for image in make_each(path, entries, what, make) if image is not None]
    owners = [number for number, _, captions in made for _ in captions]
    captions = [caption for _, _, own in made for caption in own]
    return captions_of(path, [(number, name) for number, name, _ in made], owners, captions)


def _nocaps(path: str, folder: str, split: str) -> Captions:
    """Read NoCaps (Agrawal et al., arXiv 1812.08658); the test split has no captions."""
    content = read_json(path, "a NoCaps file")
    what = "an image of NoCaps: it needs id and file_name"
    images = make_each(
        path,
        listed(path, content, "images"),
        what,
        lambda e: (e["id"], f"{split}/{text_of(e, 'file_name')}", str(e.get("domain", "unknown"))),
    )
    domains = {number: domain for number, _, domain in images}
    names = [(number, name) for number, name, _ in images]
    if "annotations" not in content:
        nothing = np.zeros(len(names) + 1, dtype=np.int64)
        read = Captions(
            ids=[number for number, _ in names],
            names=[name for _, name in names],
            captions=Texts(()),
            starts=nothing,
        )
    else:
        pairs = make_each(
            path,
            listed(path, content, "annotations"),
            "a caption of NoCaps: it needs image_id and caption",
            lambda entry: (entry["image_id"], _words(entry["caption"])),
        )
        owners, captions = [owner for owner, _ in pairs], [caption for _, caption in pairs]
        read = captions_of(path, names, owners, captions)
    return replace(read, relations=[domains[number] for number in read.ids])


def _visual_genome(path: str, folder: str, split: str) -> Captions:
    """Read region_descriptions.json (Krishna et al., arXiv 1602.07332) over its two folders."""
    second = set(os.listdir(os.path.join(folder, "VG_100K_2")))

    def make(entry: dict[str, Any]) -> tuple[Any, str, list[str]]:
        name = f"{entry['id']}.jpg"
        place = "VG_100K_2" if name in second else "VG_100K"
        return entry["id"], f"{place}/{name}", [_words(phrase) for phrase in entry["regions"]]

    entries = listed(path, read_json(path, "Visual Genome's region descriptions", _lean))
    what = "an image of Visual Genome: it needs id and regions, each with its phrase"
    made = make_each(path, entries, what, make)
    owners = [number for number, _, phrases in made for _ in phrases]
    captions = [phrase for _, _, phrases in made for phrase in phrases]
    return captions_of(path, [(number, name) for number, name, _ in made], owners, captions)


CAPTION_FORMATS: dict[str, CaptionFormat] = {
    "karpathy": CaptionFormat(
        _karpathy, dict.fromkeys(("train", "val", "test"), "dataset_coco.json")
    ),
    "nocaps": CaptionFormat(
        _nocaps, dict(val="nocaps_val_4500_captions.json", test="nocaps_test_image_info.json")
    ),
    "visual_genome": CaptionFormat(_visual_genome, dict(train="region_descriptions.json")),
}


@DATASETS.register_module()
class BenchmarkCaptions(CocoCaptions):
    """The captions of one split of a benchmark; otherwise as `CocoCaptions`.

    Args:
        benchmark: its name, see `CAPTION_FORMATS`.
        split: the benchmark's own name of the split.
        ann_file: the file within `data_root`, where its name is not the release's.
        img_dir: folder within `data_root` in which the release's folders of images lie.
        **options: arguments of `CocoCaptions`.

    Raises:
        ConfigError: besides those of `CocoCaptions`, an unknown benchmark or split.
    """

    def __init__(
        self,
        *,
        benchmark: str,
        split: str,
        ann_file: str = "",
        img_dir: str = "",
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.benchmark, self.split = benchmark, split
        self.format: CaptionFormat = pick(CAPTION_FORMATS, benchmark, "benchmark of captions")
        name = pick(self.format.splits, split, f"split of {benchmark}")
        super().__init__(ann_file=ann_file or name, img_dir=img_dir, **options)

    def read_captions(self) -> Captions:
        """Read the split."""
        path, folder = self.ann_file, self.data_prefix["img"]
        state = os.stat(path) if os.path.exists(path) else None  # it may lie in an archive
        key = (state.st_mtime_ns, state.st_size) if state else None
        read = _read(self.benchmark, self.split, path, folder, key)
        if not self.test_mode and not len(read.captions):
            raise ConfigError(
                f"The split '{self.split}' of {self.benchmark} has no captions, so nothing can be "
                "trained on it; take another, or set test_mode=True."
            )
        return read


@lru_cache(maxsize=8)  # every stage of a run builds its data sets anew
def _read(benchmark: str, split: str, path: str, folder: str, state: object) -> Captions:
    return CAPTION_FORMATS[benchmark].read(path, folder, split)


def _lean(entry: dict[str, Any]) -> Any:  # noqa: ANN401 - entries of any shape
    """Keep the text alone of a sentence or a region, which are millions."""
    for key, beside in (("raw", "tokens"), ("phrase", "region_id")):
        if beside in entry and key in entry:
            return entry[key]
    return entry


def _words(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"the caption is {ascii(text)[:80]}, but must be a text")
    return " ".join(text.split())
