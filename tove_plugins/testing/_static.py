"""Checks of the spec: nothing is built."""

import json
import os
import subprocess
import sys

from tove_plugins.testing._registry import SkipCheck, expert_check, fail
from tove_plugins.testing._subject import Subject

__all__: list[str] = []

_LISTING = """
import json, sys
from tove_plugins import discover
name, factory = sys.argv[1:]
known = name in discover().experts
heavy = [module for module in ("torch", factory) if module in sys.modules]
print(json.dumps([known, heavy]))
"""


@expert_check("static")
def check_spec_complete(subject: Subject) -> None:
    """A run composes the licences of its experts and tells what their weights have seen."""
    weights = subject.spec.weights
    if weights is None:
        return
    for field in ("licence", "trained_on"):
        if getattr(weights, field).strip().lower() in ("", "unknown"):
            fail(f"Weights.{field} is not told; the spec must say it.")


@expert_check("static")
def check_plain_options(subject: Subject) -> None:
    """Options come from config files, so the spec's must be data that a file can hold."""
    for part in ("options", "tiny"):
        try:
            json.dumps(dict(getattr(subject.spec, part)))
        except TypeError as error:
            fail(f"ExpertSpec.{part} holds what no config file can ({error}); use plain data.")


@expert_check("static")
def check_light_listing(subject: Subject) -> None:
    """Listing must not cost an import of a framework, for it runs at every start."""
    if subject.plugin is None:
        raise SkipCheck("The expert was not given by its installed name.")
    factory = subject.spec.factory.partition(":")[0]
    # Only this plugin is loaded: another that imports torch must not be blamed on it.
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TOVE_LOAD_PLUGINS": subject.plugin,
    }
    done = subprocess.run(
        [sys.executable, "-c", _LISTING, subject.name, factory],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        fail(f"Listing it in a fresh interpreter failed: {done.stderr.strip()[-500:]}")
    known, heavy = json.loads(done.stdout.splitlines()[-1])
    if not known:
        fail("A fresh interpreter does not list it.")
    if heavy:
        fail(f"Listing it imports {' and '.join(heavy)}; import them in the factory only.")
