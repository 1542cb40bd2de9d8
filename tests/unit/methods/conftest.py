"""The fixtures of tests/golden/oracle: numbers of other code, and the formula of their inputs."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "golden/oracle"


def close(value, expected, tolerance=1e-10):
    """Compare a number or a (nested) list with a fixture's, in float64."""
    value = torch.as_tensor(value, dtype=torch.float64)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(value, expected, atol=tolerance, rtol=0)


@pytest.fixture(scope="session")
def oracle():
    """Fill and probe, reading of the JSON files, checks against their checksums."""
    spec = importlib.util.spec_from_file_location("oracle_formula", FOLDER / "formula.py")
    formula = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formula)

    def inputs(rows):
        return {name: formula.fill(shape, *numbers) for name, shape, *numbers in rows}

    def check(tensor, digest):
        found = formula.digest(tensor)
        assert found.pop("shape") == digest["shape"]
        for key, value in found.items():
            close(value, digest[key])

    def check_grad(grad, expected, name=""):
        assert (grad is None) == (expected is None), f"{name}: {grad is None}"
        if expected is not None:
            close(formula.short(grad), expected)

    return SimpleNamespace(
        read=lambda name: json.loads((FOLDER / f"{name}.json").read_text()),
        fill=formula.fill,
        probe=formula.probe,
        inputs=inputs,
        check=check,
        check_grad=check_grad,
        close=close,
    )
