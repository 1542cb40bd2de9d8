"""Each check of a method fails where the method is at fault, and says what: faults by mutation."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tove import registry
from tove.testing import METHOD_CHECKS, check_method
from tove.testing._checks import MethodCheckError

TEMPLATE = Path(__file__).parents[3] / "templates/method/src/tove_my_method"
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install the template's package with other text in one of its files."""

    def add(file: str = "method.py", old: str = "", new: str = "") -> None:
        package = tmp_path / "tove_my_method"
        shutil.copytree(TEMPLATE, package, ignore=shutil.ignore_patterns("__pycache__"))
        text = (package / file).read_text()
        assert old in text
        (package / file).write_text(text.replace(old, new) if old else text + new)
        info = tmp_path / "tove_my_method-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tove-my-method\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[tove.methods]\nmine = tove_my_method.plugin\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("TOVE_BLOCK_PLUGINS", "")

    yield add
    for kind in (registry.MODELS, registry.SECTIONS):
        for name, found in list(kind.module_dict.items()):
            if found.__module__.startswith("tove_my_method"):
                del kind.module_dict[name]
    for module in [m for m in sys.modules if m.startswith("tove_my_method")]:
        del sys.modules[module]


SETTLE = "        self.settle()\n"
RETURN = "        return Fused(v_BND + self.channel_gate(z_BND), v_BND)\n"
FUSE = "        v_BND = self.projector.project_clip(t_clip_BNC)\n"
BODY = "    detachable = True\n"
FAULTS = {
    "spec_told": ("plugin.py", "Apache-2.0", "unknown", "MethodSpec.licence is not told"),
    "listing_is_light": (
        "plugin.py",
        "from tove_plugins import",
        "import tove_my_method.method\nfrom tove_plugins import",
        "Listing it imports torch and tove_my_method.method",
    ),
    "registers_its_types": (
        "plugin.py",
        '("MODELS.MyMethod",)',
        '("MODELS.MyMethod", "MODELS.Other")',
        "declares MODELS.Other, but importing",
    ),
    "registers_its_types, more": (
        "method.py",
        "",
        "\n\n@MODELS.register_module()\nclass Other: ...\n",
        "registers MODELS.Other as well",
    ),
    "public_names_only": (
        "report.py",
        "from tove.api import",
        "from tove.report import page\nfrom tove.api import",
        "report.py:3 imports tove.report",
    ),
    "builds": ("method.py", SETTLE, "", "end its __init__ with self.settle()"),
    "builds, loss": (
        "method.py",
        "",
        "\n    def losses(self, fused, data_samples):\n"
        "        return {'loss_lm': fused.t_fuse.sum() / 0}\n",
        "gives loss_lm that are not finite",
    ),
    "trains_its_own_alone": (
        "method.py",
        FUSE,
        FUSE + '        self.hub.experts["coarse"].expert.mix_3D.data.add_(1)\n',
        "hub.experts.coarse.expert.mix_3D: experts are frozen",
    ),
    "unused_told": (
        "method.py",
        SETTLE,
        "        self.spare = nn.Linear(2, 2)\n" + SETTLE,
        "leaves spare.weight, spare.bias without a gradient",
    ),
    "checkpoint_holds_it": (
        "method.py",
        RETURN,
        "        self.steps = getattr(self, 'steps', 0) + self.training\n"
        "        return Fused(v_BND + self.steps + self.channel_gate(z_BND), v_BND)\n",
        "reads otherwise after its checkpoint is loaded",
    ),
    "repeats": (
        "method.py",
        RETURN,
        RETURN.replace("self.ch", "torch.rand_like(v_BND) * self.ch"),
        "in eval gives other tokens the second time",
    ),
    "images_apart": (
        "method.py",
        RETURN,
        RETURN.replace("(z_BND)", "(z_BND - z_BND.mean(0, keepdim=True))"),
        "gives an image alone tokens that differ",
    ),
    "experts_told": (
        "method.py",
        BODY,
        BODY + "    experts_of = classmethod(lambda cls, settings: {})\n",
        "plans [] and runs ['coarse', 'fine']",
    ),
    "detaches": (
        "method.py",
        "    detachable = True\n",
        '    detachable = True\n    slot_parts = ("hub.experts",)\n',
        "cannot load",
    ),
    "detaches, share": (
        "method.py",
        RETURN,
        RETURN.replace("(z_BND)", "(z_BND / len(self.slots))"),
        "built with ['fine'] differs by",
    ),
    "cost_told": (
        "method.py",
        "",
        "\n    def cost_parts(self, image_BCHW):\n"
        "        parts = super().cost_parts(image_BCHW)\n"
        "        return {'encoder': parts['encoder'], 'experts.coarse': parts['experts.coarse']}\n",
        "does not tell of fine",
    ),
    "mixed_precision": (
        "method.py",
        RETURN,
        RETURN.replace("self.channel_gate(z_BND)", "self.channel_gate.scores.lerp(z_BND, 0.5)"),
        "raised RuntimeError",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_finds_its_fault(install: Install, fault: str) -> None:
    file, old, new, told = FAULTS[fault]
    install(file, old, new)
    with pytest.raises(MethodCheckError) as caught:
        check_method("my_method", checks=[fault.partition(",")[0]])
    assert told in str(caught.value)


def test_every_check_has_a_fault_here() -> None:
    assert {fault.partition(",")[0] for fault in FAULTS} == {c.name for c in METHOD_CHECKS.every()}


def test_a_method_that_does_not_build_skips_what_looks_at_it(install: Install) -> None:
    install("method.py", SETTLE, "")
    with pytest.raises(MethodCheckError, match=r"fails 1 of 4 checks:\n- builds: "):
        check_method("my_method", checks=["spec_told", "builds", "detaches", "repeats"])


def test_an_unknown_check_is_told_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"No check is called 'bilds'; there are: spec_told"):
        check_method("anything", checks=["bilds"])
