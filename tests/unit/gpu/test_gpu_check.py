"""`make gpu-check` where a machine has no more than it names."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]
# A machine's own. Its other packages are wheels, which the Makefile names.
MACHINE = "torch torchvision transformers timm peft safetensors opencv-python-headless matplotlib"
CODE = """
import json, sys
from importlib.machinery import PathFinder
gone = set(json.loads(sys.argv[1]))
class Machine(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in gone:
            return super().find_spec(name, path, target)
sys.meta_path[:] = [Machine if finder is PathFinder else finder for finder in sys.meta_path]
import pytest
found = pytest.main(["--collect-only", "-q", "-m", "gpu", "-p", "no:cacheprovider", sys.argv[2]])
assert found == 0
sys.path.insert(0, sys.argv[3])
import gpu_check
sys.exit(gpu_check.main(["--out", sys.argv[4]]))
"""


def allowed() -> set[str]:
    """Return the distributions that there are: named ones, and what they need."""
    wheels = re.search(r"GPU_WHEELS := (.*?[^\\])\n", (ROOT / "Makefile").read_text(), re.S)
    named = [*wheels[1].replace("\\\n", " ").replace("'", "").split(), *MACHINE.split()]
    needs = {name_of(d.metadata["Name"]): d.requires or [] for d in distributions()}
    found, waiting = set(), [name_of(Requirement(text).name) for text in named]
    while waiting:
        if (name := waiting.pop()) in found or name not in needs:
            continue
        found.add(name)
        texts = map(Requirement, needs[name])
        waiting += [name_of(r.name) for r in texts if not r.marker or r.marker.evaluate()]
    return found | {"tove-plugins"}


def name_of(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def top_modules(there: bool) -> set[str]:
    """Return the modules of the distributions that a machine has, or of all others."""
    known = allowed()
    return {
        file.parts[0].removesuffix(".py")
        for distribution in distributions()
        if (name_of(distribution.metadata["Name"]) in known) == there
        for file in distribution.files or ()
        if file.suffix == ".py"
    }


@pytest.mark.slow
def test_it_needs_no_package_but_those_that_it_names_and_measures(tmp_path: Path):
    there = top_modules(there=True)
    gone = top_modules(there=False) - there - {"..", *os.listdir(ROOT)}
    assert {"pycocoevalcap", "tensorboard"} <= gone
    assert not {"mmdet", "mmcv", "mmpretrain"} & there
    places = [ROOT / "tests/unit/gpu", ROOT / "benchmarks", tmp_path]
    command = [sys.executable, "-c", CODE, json.dumps(sorted(gone)), *map(str, places)]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # one that is half there
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "gpu_check.json").read_text())
    assert result["failed"] == {}
    found = {claim["what"]: claim["median"] for claim in result["claims"]}
    assert found["cached step / plain step"] > 0
    shares = [value for what, value in found.items() if what.startswith("share of a live step")]
    assert sum(shares) == 1 or abs(sum(shares) - 1) < 1e-6
    kinds = ("images/s", "MFU", "hub / by hand", "MoLE / FFN", "naive / fused", "eager / compiled")
    told = json.dumps(result)
    assert [kind for kind in kinds if kind not in told] == []
    page = (tmp_path / "gpu_check.md").read_text()
    assert page.startswith("# ToVE at the paper's size on ")
    assert all(f"| {what} |" in page for what in found)
