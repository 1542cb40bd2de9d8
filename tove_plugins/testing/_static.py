"""Checks of the spec: nothing is built."""

import functools
import json
import os
import subprocess
import sys

from tove_plugins.testing._registry import SkipCheck, expert_check, fail
from tove_plugins.testing._subject import Subject

__all__ = ["require_light_listing"]

_LISTING = """
import json, sys
from tove_plugins import discover, discover_methods
known = sorted([*discover().experts, *discover_methods().methods])
print(json.dumps([known, sorted(sys.modules)]))
"""


@expert_check("static")
def check_spec_complete(subject: Subject) -> None:
    """A run composes the licences of its experts and tells what their weights have seen.

    Where the spec has `weights`, their `licence` and `trained_on` must be told.

    Mend: Name the licence, as SPDX does where it can, and the data in a few words.
    """
    weights = subject.spec.weights
    if weights is None:
        return
    for field in ("licence", "trained_on"):
        if getattr(weights, field).strip().lower() in ("", "unknown"):
            fail(f"Weights.{field} is not told; the spec must say it.")


@expert_check("static")
def check_plain_options(subject: Subject) -> None:
    """Options come from config files, so the spec's must be data that a file can hold.

    `options` and `tiny` must be writable as JSON.

    Mend: Give names rather than classes and functions, and look them up in the factory.
    """
    for part in ("options", "tiny"):
        try:
            json.dumps(dict(getattr(subject.spec, part)))
        except TypeError as error:
            fail(f"ExpertSpec.{part} holds what no config file can ({error}); use plain data.")


@expert_check("static")
def check_light_listing(subject: Subject) -> None:
    """Listing must not cost an import of a framework, for it runs at every start.

    The plugin is listed in a fresh interpreter; afterwards neither torch nor the factory's module
    may have been imported.

    Mend: Import torch and the network's library in the factory's module only, and keep that
    module out of the plugin's and the package's `__init__`.
    """
    if subject.plugin is None:
        raise SkipCheck("The expert was not given by its installed name.")
    factory = subject.spec.factory.partition(":")[0]
    require_light_listing(subject.plugin, subject.name, factory, "in the factory only")


def require_light_listing(plugin: str, name: str, module: str, where: str) -> None:
    """Fail where listing a plugin in a fresh interpreter does not show a name, or is heavy.

    Args:
        plugin: The plugin's name.
        name: Of its expert or method.
        module: What listing must not import, as it must not import torch.
        where: Where that is to be imported instead, for the message.
    """
    known, imported = _list_afresh(plugin, os.pathsep.join(path for path in sys.path if path))
    if name not in known:
        fail("A fresh interpreter does not list it.")
    heavy = [one for one in ("torch", module) if one in imported]
    if heavy:
        fail(f"Listing it imports {' and '.join(heavy)}; import them {where}.")


@functools.cache
def _list_afresh(plugin: str, path: str) -> tuple[frozenset[str], frozenset[str]]:
    """Give what a new interpreter lists of a plugin, and the modules it imported."""
    # Only this plugin is loaded: another that imports torch must not be blamed on it.
    environment = os.environ | {"PYTHONPATH": path, "TOVE_LOAD_PLUGINS": plugin}
    done = subprocess.run(
        [sys.executable, "-c", _LISTING],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        fail(f"Listing it in a fresh interpreter failed: {done.stderr.strip()[-500:]}")
    known, imported = json.loads(done.stdout.splitlines()[-1])
    return frozenset(known), frozenset(imported)
