"""Methods of other packages: imported for a config that names one of their types, or refused."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mmengine.config import Config

from tove import registry
from tove.config.validation import look_up
from tove.engine.method_packages import import_named_methods
from tove.engine.preflight import check_config
from tove.errors import ConfigError
from tove_plugins import MethodImportError

PLUGIN = """
from tove_plugins import MethodSpec, hookimpl

@hookimpl
def tove_methods():
    yield MethodSpec("acme", "acme_package.method", {types!r}, requires={requires!r})
"""
METHOD = """
from tove.api import MODELS, STAGES

@MODELS.register_module()
class AcmeModel: ...

@STAGES.register_module()
class AcmeStage: ...
"""
TYPES = ("MODELS.AcmeModel", "STAGES.AcmeStage")
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install acme's package, with other code or another spec; its types are forgotten again."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(
        code: str = METHOD,
        types: tuple[str, ...] = TYPES,
        requires: tuple[str, ...] = (),
        name: str = "acme",
        plugin: str = "",
    ) -> None:
        (tmp_path / f"{name}_package").mkdir()
        (tmp_path / f"{name}_package/__init__.py").write_text("")
        (tmp_path / f"{name}_package/method.py").write_text(textwrap.dedent(code))
        told = plugin or PLUGIN.format(types=types, requires=requires)
        (tmp_path / f"{name}_package/plugin.py").write_text(told.replace("acme", name))
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[tove.methods]\n{name} = {name}_package.plugin\n")
        monkeypatch.syspath_prepend(str(tmp_path / f"look again {name}"))

    yield add
    for module in [m for m in sys.modules if m.partition(".")[0].endswith("_package")]:
        del sys.modules[module]
    for kind, name in (text.split(".") for text in TYPES):
        getattr(registry, kind).module_dict.pop(name, None)


@pytest.mark.parametrize(
    "cfg",
    [
        {"model": {"type": "AcmeModel"}},
        {"model": {"type": "tove.AcmeModel"}},
        {"stages": [{"type": "TrainStage", "model": {"type": "AcmeModel"}}]},
        {"stages": [{"type": "AcmeStage", "name": "a"}]},
        {"anything": {"deep": [{"inside": ({"type": "AcmeStage"},)}]}},
    ],
    ids=["model", "scoped", "stage_model", "stage", "anywhere"],
)
def test_a_named_type_brings_its_package_wherever_it_stands(install: Install, cfg: dict) -> None:
    install()
    (entry,) = import_named_methods(Config(cfg))
    assert entry.spec.name == "acme"
    assert registry.MODELS.get("AcmeModel").__module__ == "acme_package.method"
    assert look_up(registry.STAGES, "AcmeStage", "stages.a").__name__ == "AcmeStage"
    assert [e.spec.name for e in import_named_methods(Config(cfg))] == ["acme"]  # again


def test_a_config_that_names_none_imports_none(install: Install) -> None:
    install()
    cfg = Config({"model": {"type": "ToVE", "note": "AcmeModel"}, "AcmeStage": {"name": "type"}})
    assert import_named_methods(cfg) == []
    assert "acme_package.method" not in sys.modules


FAULTY = {
    "raises": (
        {"code": "raise ValueError('no luck')"},
        MethodImportError,
        r"The module acme_package.method of method 'acme' \(plugin 'acme' of acme 1.0\) cannot be "
        r"imported: ValueError: no luck. Mend it with: pip install -U acme,",
    ),
    "private": (
        {"code": "from tove.api import NotThere"},
        MethodImportError,
        r"ImportError: cannot import name 'NotThere'",
    ),
    "requires": (
        {"requires": ("not-there-at-all>=2",)},
        MethodImportError,
        r"needs not-there-at-all>=2 \(it is not installed\). Mend it with: pip install 'not-there",
    ),
    "registers_less": (
        {"code": METHOD.partition("@STAGES")[0]},
        ConfigError,
        r"declares the type STAGES.AcmeStage, but importing acme_package.method registers nothing",
    ),
    "no_such_registry": (
        {"types": ("MODELS.AcmeModel", "GADGETS.Acme")},
        ConfigError,
        r"There is no registry 'GADGETS' for the type GADGETS.Acme",
    ),
    "built_in": (
        {"types": ("MODELS.AcmeModel", "STAGES.TrainStage")},
        ConfigError,
        r"STAGES.TrainStage is claimed by the method 'acme' .*TOVE_BLOCK_PLUGINS=acme.*uninstall",
    ),
    "mmengine_s": (
        {"types": ("MODELS.AcmeModel", "HOOKS.IterTimerHook")},
        ConfigError,
        r"HOOKS.IterTimerHook is claimed by the method 'acme' .* and by mmengine",
    ),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_what_cannot_be_used_is_refused_before_anything_runs(install: Install, kind: str) -> None:
    given, error, told = FAULTY[kind]
    install(**given)
    with pytest.raises(error, match=told):
        import_named_methods(Config({"model": {"type": "AcmeModel"}}))


@pytest.mark.parametrize("contested", ["MODELS.AcmeModel", "acme"])
def test_what_two_packages_claim_is_refused_where_it_is_named(
    install: Install, monkeypatch: pytest.MonkeyPatch, contested: str
) -> None:
    install()
    if contested == "acme":  # the name alone
        told = PLUGIN.format(types=("MODELS.Other",), requires=()).replace("acme_p", "rival_p")
        install(name="rival", plugin=told.replace('"acme"', '"ac" "me"'))
    else:
        install(name="rival")
    assert import_named_methods(Config({"model": {"type": "ToVE"}})) == []
    claimed = rf"'{contested}' is claimed by .*acme 1.0.*rival 1.0.*TOVE_BLOCK_PLUGINS=rival"
    with pytest.raises(ConfigError, match=claimed):
        import_named_methods(Config({"model": {"type": "AcmeModel"}}))
    monkeypatch.setenv("TOVE_BLOCK_PLUGINS", "rival")
    assert len(import_named_methods(Config({"model": {"type": "AcmeModel"}}))) == 1


def test_an_unknown_type_tells_of_the_package_that_did_not_load(install: Install) -> None:
    install(plugin="raise RuntimeError('half an upgrade')")
    assert import_named_methods(Config({"model": {"type": "AcmeModel"}})) == []
    with pytest.raises(ConfigError, match=r"model.type is 'AcmeModel', which is unknown.*half an"):
        look_up(registry.MODELS, "AcmeModel", "model")


def test_research_code_of_a_name_that_an_installed_method_has_is_refused_in_a_sentence(
    install: Install, settings: dict, tmp_path: Path
) -> None:
    install()
    (tmp_path / "research_package.py").write_text(METHOD)
    settings["custom_imports"] = {"imports": ["research_package"]}
    settings["stages"][2]["model"] = {"type": "AcmeModel"}
    cfg = Config(settings)
    import_named_methods(cfg)
    with pytest.raises(ConfigError, match=r"AcmeModel is already registered.*TOVE_BLOCK_PLUGINS="):
        check_config(cfg)
