"""What our commands settle before torch is imported: a process of its own tells."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"

COUNT = """
import ctypes, resource, sys
from tove.command_line import prepare_process
prepare_process()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    block = libc.malloc(24 << 20)
    ctypes.memset(block, 1, 24 << 20)
    libc.free(block)
step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""
PAGES = (24 << 20) // os.sysconf("SC_PAGE_SIZE")


def faults_of_five_steps(**environment: str) -> int:
    own = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(
        command, env=own | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_that_is_freed_is_used_again_without_a_page_fault():
    assert faults_of_five_steps() < PAGES / 10
    assert faults_of_five_steps(MALLOC_MMAP_THRESHOLD_="131072") > 4 * PAGES  # as the user says


def test_imports_are_not_looked_through_for_garbage():
    code = "import gc, tove.command_line as c; c.prepare_process(); print(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


BARS = """
from tove.command_line import prepare_process
prepare_process()
import time
from tqdm.auto import tqdm
for _ in tqdm(range(3), desc="short"):
    pass
for _ in tqdm(range(3), desc="long", mininterval=0):
    time.sleep(0.8)
"""


@pytest.mark.parametrize(
    ("said", "shown"), [({}, {"long"}), ({"TQDM_DELAY": "0"}, {"short", "long"})]
)
def test_bars_of_what_is_done_at_once_are_left_out(said: dict[str, str], shown: set[str]):
    own = {name: value for name, value in os.environ.items() if name != "TQDM_DELAY"}
    command = [sys.executable, "-c", BARS]
    done = subprocess.run(command, env=own | said, capture_output=True, text=True, check=True)
    assert {name for name in ("short", "long") if f"{name}:" in done.stderr} == shown


@pytest.mark.parametrize(
    ("tool", "given", "told"),
    [
        ("cache", "CONFIG --dry-run --images 0", "--images is 0; give 1 or more"),
        ("cache", "CONFIG --batch-size -3", "--batch-size is -3; give 1 or more"),
        ("plan", "CONFIG --words 1", "--words is 1; give 2 or more"),
        ("plan", "CONFIG --tflops nan", "--tflops is nan; give 1e-09 or more"),
        ("reproduce", "--seeds 0", "--seeds is 0; give 1 or more"),
        ("score", "CONFIG --jobs 0", "--jobs is 0; give 1 or more"),
        ("lmms_eval", "FOLDER --tasks gqa --limit 0", "--limit is 0; give 1 or more"),
        (
            "score",
            "NAME --picture a.jpg",
            "--picture is a.jpg; give a name that ends in .svg or .png",
        ),
        ("plan", "CONFIG --plot a.svg", "--plot is a.svg; give a name that ends in .png"),
        ("compare", "FOLDER --plot a", "--plot is a; give a name that ends in .png"),
        ("cache", "CONFIG --verify --copy-to s3://x/y", "not allowed with argument --verify"),
    ],
)
def test_what_cannot_be_meant_ends_the_command(
    tool: str, given: str, told: str, capsys: pytest.CaptureFixture
):
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(TOOLS / f"{tool}.py"))["parse_args"](given.split())
    assert told in capsys.readouterr().err
