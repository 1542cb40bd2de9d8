"""What `mim search tove_plugins` lists, as mim itself reads it."""

import warnings
from pathlib import Path

import pytest

pytest.importorskip("mim", reason="mim is an extra: pip install -e '.[mim]'")

REPOSITORY = Path(__file__).parents[2]
NO_MODELS = ("_base_", "benchmarks", "claims")  # laid over other configs, or questions to several


def test_mim_lists_every_config_that_trains_a_model_by_its_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mim imports pkg_resources
        from mim.commands.search import convert2df
        from modelindex.load_model_index import load

    listed = convert2df(load(str(REPOSITORY / "model-index.yml")))
    configs = [
        path
        for path in (REPOSITORY / "configs").glob("*/*.py")
        if path.parent.name not in NO_MODELS
    ]
    expected = {path.stem: str(path.relative_to(REPOSITORY)) for path in configs}
    assert listed["config"].to_dict() == expected
    assert set(listed["paper"].str.split("/").str[-1]) == {"2504.00691", "2501.01709", "2310.03744"}
    assert listed["training_data"].notna().all()
