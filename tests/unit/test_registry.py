"""The registries of scope `tove`."""

from mmengine import registry as root
from mmengine.registry import Registry

from tove import registry


def test_every_kind_of_mmengine_has_a_child_of_scope_tove() -> None:
    kinds = {name for name, value in vars(root).items() if isinstance(value, Registry)}
    missing = {kind for kind in kinds if "tove" not in getattr(root, kind).children}
    assert not missing


def test_names_are_exported_once() -> None:
    values = {name for name, value in vars(registry).items() if isinstance(value, Registry)}
    assert values | {"SCOPE"} == set(registry.__all__)
