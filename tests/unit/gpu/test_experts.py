"""Experts on the device: where their config says, in its dtype, with the right tokens."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tove.backbones.experts.hub import ExpertHub
from tove_plugins import ExpertBuildError, check_build, discover

pytestmark = pytest.mark.gpu


def names() -> list[str]:
    """Return the experts; on a CPU, where others test each of them, one of each factory.

    Those of OpenMMLab's libraries are left out: no machine of `make gpu-check` has them.
    """
    specs = [entry.spec for entry in discover().experts.values()]
    specs = [spec for spec in specs if "openmmlab" not in spec.factory]
    if torch.cuda.is_available():
        return [spec.name for spec in specs]
    return list({spec.factory: spec.name for spec in reversed(specs)}.values())


@pytest.fixture
def images() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", names())
def test_every_expert_in_bfloat16_is_near_what_it_is_on_a_cpu(
    name: str, device: torch.device, images: Tensor
):
    try:
        check_build(name, tiny=True)
    except ExpertBuildError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    hub = ExpertHub({"slot": {"type": name, "tiny": True, "dtype": "bfloat16"}})
    found = hub.to(device)(images.to(device))["slot"]
    assert (found.device.type, found.dtype) == (device.type, torch.bfloat16)
    wide = hub.experts["slot"].expert.float().cpu()
    pixels = hub.experts["slot"].cpu().preprocess(images)
    with torch.no_grad():
        expected = wide(pixels)
    error = (found.float().cpu() - expected).norm() / expected.norm()
    assert error < 0.1, f"{error:.3f} of the tokens' norm"


def test_each_stays_where_its_config_says(
    experts: dict[str, Any], device: torch.device, images: Tensor
):
    cfg = experts["coarse"]
    hub = ExpertHub(
        {
            "follows": cfg,
            "on_cpu": {**cfg, "device": "cpu"},
            "low": {**cfg, "dtype": "bfloat16"},
            "on_cpu_low": {**cfg, "device": "cpu", "dtype": "bfloat16"},
        }
    )
    state = hub.experts["follows"].expert.state_dict()
    for slot in hub.slots:
        hub.experts[slot].expert.load_state_dict(state)
    tokens = hub.to(device)(images.to(device))
    assert {t.device.type for t in tokens.values()} == {device.type}
    places = {slot: next(hub.experts[slot].parameters()) for slot in hub.slots}
    assert {slot: p.device.type for slot, p in places.items()} == {
        "follows": device.type,
        "on_cpu": "cpu",
        "low": device.type,
        "on_cpu_low": "cpu",
    }
    low = {slot for slot, p in places.items() if p.dtype == torch.bfloat16}
    assert (
        low == {"low", "on_cpu_low"} == {s for s, t in tokens.items() if t.dtype != torch.float32}
    )
    for found in tokens.values():
        torch.testing.assert_close(found.float(), tokens["follows"], rtol=2e-2, atol=2e-2)


def test_a_hub_never_waits_for_the_device(
    experts: dict[str, Any], device: torch.device, images: Tensor, never_waits: Any
):
    hub = ExpertHub(experts, token_norm="standardise").to(device)
    there = images.to(device)
    hub(there)  # the first one is checked
    with never_waits():
        tokens = hub(there)
    assert {t.device.type for t in tokens.values()} == {device.type}
