"""What reading COCO's captions takes, beside a plain `json.load` of the same file.

    python benchmarks/coco_captions.py [--images 120000]

Writes a file with five captions an image, and the images (empty), into a temporary folder. Each
reading has a process of its own; its memory is the peak over what the imports took (Linux).
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import frame
from frame import Claim

SECONDS, MEGABYTES = 3.0, 300.0  # goals, of 600,000 captions

_MEASURE = """
import re, sys, time
{imports}
open("/proc/self/clear_refs", "w").write("5")  # the peak from here on
def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
before, start, used = memory("VmRSS"), time.perf_counter(), time.process_time()
{work}
print(time.perf_counter() - start, time.process_time() - used, memory("VmHWM") - before, count)
"""
_PLAIN = (
    "import json",
    "with open(sys.argv[1] + '/captions.json') as file: content = json.load(file)\n"
    "count = len(content['annotations'])",
)
_OURS = (
    "import tove.data",
    "data = tove.data.CocoCaptions(data_root=sys.argv[1], ann_file='captions.json')\n"
    "count = len(data)",
)
_AGAIN = (  # as the next stage of a run builds it
    _OURS[0] + "\nfrom tove.data import CocoCaptions\n"
    "CocoCaptions(data_root=sys.argv[1], ann_file='captions.json')",
    _OURS[1],
)
_LOOKED_OVER = (
    "from mmengine.config import Config; from rich.console import Console\n"
    "import tove.data, tove.evaluation; from tove.data.look_over import look_over",
    "data = dict(type='CocoCaptions', data_root=sys.argv[1], ann_file='captions.json')\n"
    "found = look_over(Config({'train_dataloader': {'dataset': data}}), Console(stderr=True))\n"
    "assert 'None of the 16 images looked at can be read' in found.problems[0]\n"
    "count = 600000",
)
_WORDS = "a the man woman dog horse pizza sitting standing on near with red large street".split()


def write(root: Path, num_images: int) -> None:
    """Write images and five captions of about fifty letters for each, with COCO's keys."""
    chance = random.Random(0)
    (root / "images").mkdir()
    images, annotations = [], []
    for number in range(num_images):
        name = f"{number:012}.jpg"
        (root / "images" / name).touch()
        images.append({"license": 3, "file_name": name, "height": 427, "width": 640, "id": number})
        for _ in range(5):
            caption = " ".join(chance.choices(_WORDS, k=10)) + "."
            identity = len(annotations)
            annotations.append({"image_id": number, "id": identity, "caption": caption})
    chance.shuffle(annotations)
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def measure(root: Path, imports: str, work: str) -> tuple[float, float, float, int]:
    """Return seconds, those of the processor, MiB at the peak and the number of samples."""
    code = _MEASURE.format(imports=imports, work=work)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(frame.PATHS)}
    command = [sys.executable, "-c", code, str(root)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    out = done.stdout.split()
    return float(out[0]), float(out[1]), float(out[2]), int(out[3])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = frame.parser(__doc__)
    parser.add_argument("--images", type=int, default=120_000)
    args = parser.parse_args(argv)
    images = 50 if args.short else args.images
    works = {"json.load": _PLAIN, "CocoCaptions": _OURS}
    if not args.short:  # each is a process that imports torch
        works |= {"CocoCaptions, again": _AGAIN, "look_over": _LOOKED_OVER}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, images)
        found = {
            name: [measure(root, *parts) for _ in range(args.rounds or 1)]
            for name, parts in works.items()
        }
    plain = [used for _, used, _, _ in found["json.load"]]
    claims = []
    for name in list(works)[1:]:
        used = [processor for _, processor, _, _ in found[name]]
        memory = [peak for _, _, peak, _ in found[name]]
        full = args.images == 120_000 and name == "CocoCaptions" and not args.short
        claims += [
            Claim(f"{name} / json.load, {5 * images:,} captions", frame.over(used, plain)),
            Claim(f"{name}, processor", used, SECONDS if full else None, unit="s"),
            Claim(f"{name}, peak memory", memory, MEGABYTES if full else None, unit="MiB"),
        ]
    frame.write("coco_captions", "reading COCO's captions, a process each", claims, args)


if __name__ == "__main__":
    main()
