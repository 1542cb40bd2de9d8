"""What reading COCO's captions takes, beside a plain `json.load` of the same file.

    python benchmarks/coco_captions.py [--images 120000]

Writes a file with five captions an image, and the images (empty), into a temporary folder. Each
reading has a process of its own; its memory is the peak over what the imports took (Linux).
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

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
    out = subprocess.run(
        [sys.executable, "-c", code, str(root)], check=True, capture_output=True, text=True
    ).stdout.split()
    return float(out[0]), float(out[1]), float(out[2]), int(out[3])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--images", type=int, default=120_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, images)
        size = (root / "captions.json").stat().st_size / 2**20
        print(f"{5 * images:,} captions of {images:,} images, {size:.0f} MiB")
        reference = measure(root, *_PLAIN)
        for name, parts in (
            ("json.load", _PLAIN),
            ("CocoCaptions", _OURS),
            ("again", _AGAIN),
            ("look_over", _LOOKED_OVER),
        ):
            seconds, used, peak, count = measure(root, *parts)
            print(
                f"{name:13} {seconds:5.1f} s, processor {used:5.2f} s ({used / reference[1]:.2f} "
                f"of json.load), peak {peak:4.0f} MiB ({peak / reference[2]:.2f}), {count:,} rows"
            )


if __name__ == "__main__":
    main()
