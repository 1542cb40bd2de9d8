"""A config that pins weights: their revision reaches the hub's client, their digest is compared."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from tove.backbones.experts.provenance import expert_provenance
from tove.engine.preflight import check_config
from tove.registry import EXPERTS
from tove_plugins import ExpertBuildError, discover, find_weights
from tove_plugins._cli import main

SHIPPED = discover().get("tiny_depth").spec.weights
assert SHIPPED is not None
DIGEST = SHIPPED.sha256


@pytest.fixture
def revisions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str | None]:
    """Let the hub's client serve the shipped weights, and give the revisions it is asked for."""
    assert SHIPPED is not None
    shutil.copy(find_weights(SHIPPED.source), tmp_path / "model.safetensors")
    asked: list[str | None] = []

    def hf_hub_download(repo: str, file: str, revision: str | None) -> str:
        asked.append(revision)
        return str(tmp_path / file)

    def snapshot_download(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(revision)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("source", ["hub:org/name@v2", "hub:org/name@v2/model.safetensors"])
def test_a_config_s_revision_and_digest_hold_before_anything_is_built(
    settings: dict[str, Any], revisions: list[str | None], source: str
) -> None:
    depth = {"type": "tiny_depth", "weights": source, "sha256": DIGEST}
    settings["model"]["experts"]["depth"] = depth
    check_config(Config(settings))
    assert set(revisions) == {"v2"}
    depth["sha256"] = "0" * 64
    with pytest.raises(ExpertBuildError, match=r"model\.experts\.depth: .* not 0000") as caught:
        check_config(Config(settings))
    assert str(DIGEST) in str(caught.value)


def test_a_pinned_expert_is_built_of_that_revision(revisions: list[str | None]) -> None:
    pinned = {"type": "tiny_depth", "weights": "hub:org/name@v2/model.safetensors"}
    assert EXPERTS.build({**pinned, "sha256": DIGEST}).training
    assert set(revisions) == {"v2"}
    with pytest.raises(ExpertBuildError, match="as was declared"):
        EXPERTS.build({**pinned, "sha256": "0" * 64})
    assert expert_provenance({**pinned, "sha256": DIGEST})["sha256"] == DIGEST


def test_a_digest_alone_pins_the_expert_s_own_weights(settings: dict[str, Any]) -> None:
    settings["model"]["experts"]["depth"] = {"type": "tiny_depth", "sha256": "0" * 64}
    with pytest.raises(ExpertBuildError, match="damaged or another version"):
        check_config(Config(settings))


PLUGIN = """
@hookimpl
def tove_experts():
    yield spec("e", weights=Weights({source!r}, {digest!r}))
"""


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("hub:org/name", 'by weights="hub:org/name@REVISION", sha256="DIGEST"'),
        ("hub:org/name/net.pth", 'by weights="hub:org/name@REVISION/net.pth", sha256="DIGEST"'),
        ("hub:org/name@v1", 'not compared; a config pins it by sha256="DIGEST"'),
        ("https://zoo.example/net.pth", 'not compared; a config pins it by sha256="DIGEST"'),
    ],
)
def test_the_card_of_weights_without_a_digest_tells_how_to_pin_them(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str], source: str, told: str
) -> None:
    install("somebodys-expert", PLUGIN.format(source=source, digest=None))
    assert main(["show", "e"]) == 0
    assert told in capsys.readouterr().out


def test_a_declared_digest_is_told_as_it_is(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install("somebodys-expert", PLUGIN.format(source="hub:org/name", digest="a" * 64))
    assert main(["show", "e"]) == 0
    assert f"sha256 {'a' * 64}\n" in capsys.readouterr().out
