"""What runs on a GPU, run on one that is not there: torch's fake tensors, on `cuda`.

A fake tensor has shape, dtype and device, and no values. What asks for a value (`.item()`,
`if tensor`, `.tolist()`, `nonzero`) would make the host wait for all that is queued, and raises
here; so does an operation on tensors of two devices, such as a constant that `.to()` left behind.
What cannot be seen so: backward, kernels' own errors, how long a copy from the host is waited for.

Experts are those that are discovered, methods those in MODELS: a new one is covered by itself.
"""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from tove.backbones.clip.encoder import OpenCLIP, TransformersCLIP
from tove.backbones.experts.frozen_expert import FrozenExpert
from tove.backbones.experts.hub import ExpertHub
from tove.backbones.language.causal_lm import CausalLanguageModel
from tove.backbones.transformers_vit import TransformersViT
from tove.config.validation import accepted_arguments
from tove.data.tiny_world.tokenizer import tiny_tokenizer
from tove.registry import MODELS
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, build_expert, discover, resolve_expert

CUDA = torch.device("cuda", 0)
# Library code that waits for the GPU in every layer, on a real one too: mmcv's deformable attention
# asks whether the shapes of the maps add up, and mmdet gives it these as a tensor on the GPU.
WAITS = ("mmdet_dino_r50", "mmdet_mask2former_swin_t")


@pytest.fixture
def mode(fake_cuda: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    # What a module forgot on the CPU is taken for what it is: a tensor on the CPU.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)  # needs a driver
    # It reads the CPU's generators, once for each expert, and no fake tensor has a state.
    for module in ("hub", "frozen_expert"):
        monkeypatch.setattr(f"tove.backbones.experts.{module}.kept_global_state", nullcontext)
    # mmdet asks for a shape as a tensor, by an operator that knows no fake ones.
    monkeypatch.setattr(torch, "_shape_as_tensor", lambda tensor: torch.tensor(tensor.shape))
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield mode
    torch.__future__.set_overwrite_module_params_on_conversion(overwrite)


def on_cuda(module: Any, mode: FakeTensorMode) -> Any:
    """Do what `module.to("cuda")` does: a module's own `_apply` counts."""

    def move(tensor: Tensor) -> Tensor:
        with mode:
            return torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA
            )

    return module._apply(move)


def fake(mode: FakeTensorMode, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    with mode:
        return torch.empty(shape, dtype=dtype, device=CUDA)


# --- that it can fail -----------------------------------------------------------------------------


class Faulty(nn.Module):
    """An expert that does what one must not."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.scale = fault, torch.ones(6)
        self.conv = nn.Conv2d(3, 6, 4, stride=4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.conv(images).flatten(2).transpose(1, 2)
        if self.fault == "item":
            return tokens / tokens.max().item()
        if self.fault == "if":
            return tokens if tokens.sum() > 0 else -tokens
        if self.fault == "tolist":
            return tokens * len(tokens.amax(2).tolist())
        if self.fault == "nonzero":
            return tokens[tokens.sum((1, 2)).nonzero()[:, 0]]
        if self.fault == "constant":
            return tokens * self.scale
        return tokens


def faulty(fault: str) -> FrozenExpert:
    image = ImageSpec((12, 12), (0.5,) * 3, (0.5,) * 3)
    spec = ExpertSpec("faulty", "testing", "tests:Faulty", TokenSpec(6, (3, 3)), image)
    return FrozenExpert("slot", spec, Faulty(fault))


@pytest.mark.parametrize("fault", ["item", "if", "tolist", "nonzero", "constant"])
def test_what_waits_or_mixes_devices_is_caught(fault: str, mode: FakeTensorMode):
    images = fake(mode, 2, 3, 24, 24)
    assert faulty(fault)(torch.rand(2, 3, 24, 24)).shape == (2, 9, 6)  # on the CPU all is well
    sound, wrong = on_cuda(faulty(""), mode), on_cuda(faulty(fault), mode)
    with mode:
        assert sound(images).device == CUDA
        with pytest.raises((RuntimeError, ValueError)):
            wrong(images)


# --- encoders and language models -----------------------------------------------------------------


def open_clip_folder(folder: Path) -> str:
    tower = {"width": 32, "layers": 2}
    config = {
        "embed_dim": 24,
        "vision_cfg": {**tower, "head_width": 8, "patch_size": 8, "image_size": 32},
        "text_cfg": {**tower, "heads": 4, "context_length": 12, "vocab_size": 99},
    }
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    seen = {"mean": [0.4] * 3, "std": [0.3] * 3}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": seen})
    (folder / "open_clip_config.json").write_text(text)
    return str(folder)


def vit_folder(kind: str, folder: Path) -> str:
    tower = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    config = AutoConfig.for_model(kind, image_size=32, patch_size=8, **tower)
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def encoder(request: pytest.FixtureRequest, tmp_path: Path, clip_folder: str) -> Any:
    if request.param == "clip":
        return TransformersCLIP(clip_folder)
    if request.param == "open_clip":
        return OpenCLIP(open_clip_folder(tmp_path))
    return TransformersViT(vit_folder(request.param, tmp_path))


ENCODERS = ["clip", "open_clip", "siglip_vision_model", "dinov2", "dinov3_vit"]


@pytest.mark.parametrize("encoder", ENCODERS, indirect=True)
@pytest.mark.parametrize("train", [False, True])
def test_every_encoder(encoder: Any, train: bool, mode: FakeTensorMode):
    on_cuda(encoder, mode).train(train)
    images = fake(mode, 2, 3, 40, 40)
    with mode:
        tokens, with_class = encoder(images), encoder.encode(images)
    assert (tokens.device, tokens.shape) == (CUDA, (2, 16, 32))
    assert with_class.shape == (2, 16 + encoder.has_class_token, 32)


# transformers 4 asks the device in each forward whether every vision token is to be seen.
READS_BACK = pytest.mark.xfail(
    transformers.__version__ < "5",
    raises=DataDependentOutputException,
    strict=True,
    reason="GPT-2's cross-attention waits for the device in transformers 4",
)


@pytest.mark.parametrize("fusion", [pytest.param("cross_attention", marks=READS_BACK), "prefix"])
@pytest.mark.parametrize("loss_mean", ["tokens", "samples"])
def test_the_language_models_loss(
    tmp_path: Path, fusion: str, loss_mean: str, mode: FakeTensorMode
):
    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(
        "gpt2", vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    adapters = dict(type="bottleneck", width=4)
    language = CausalLanguageModel(str(tmp_path), fusion, adapters=adapters, loss_mean=loss_mean)
    on_cuda(language, mode).train()
    with mode:
        asked = [dict(prompt="a red ball", target="a box"), dict(prompt="", target=None)]
        loss = language.loss(fake(mode, 2, 9, 32), asked)
    assert (loss.device, loss.shape) == (CUDA, ())


# --- experts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(discover().experts))
def test_every_expert(name: str, mode: FakeTensorMode):
    spec = resolve_expert(name, tiny=True)
    expert = on_cuda(FrozenExpert("slot", spec, build_expert(name, tiny=True)), mode)
    images = fake(mode, 2, 3, 64, 64)
    if name in WAITS:
        with mode, pytest.raises(RuntimeError, match="_local_scalar_dense"):
            expert(images)
        pytest.skip("mmdet reads the shapes of its maps back from the GPU in every layer")
    with mode:
        tokens = expert(images)
    assert tokens.device == CUDA
    assert tokens.shape == (2, spec.tokens.num_tokens, spec.tokens.width)


def test_those_that_wait_are_there():
    assert set(WAITS) <= discover().experts.keys()


@pytest.mark.parametrize("options", [{}, {"device": "cpu"}, {"dtype": "bfloat16"}])
def test_the_hub_brings_tokens_home(options: dict, experts: dict, mode: FakeTensorMode):
    experts["coarse"] = {**experts["coarse"], **options}
    hub = on_cuda(ExpertHub(experts), mode)
    with mode:
        tokens = hub(fake(mode, 2, 3, 40, 40))
    assert {slot: t.device for slot, t in tokens.items()} == {"coarse": CUDA, "fine": CUDA}


# --- methods --------------------------------------------------------------------------------------


@pytest.fixture
def language(fake_language: Any) -> Any:
    """A double: what the real one does on a GPU is tested beside it."""

    class Language(fake_language):
        def read(self, memory: Tensor) -> Tensor:
            return self.body(memory)

    return Language()


METHODS = sorted((MODELS.import_from_location(), MODELS.module_dict)[1])
# Switches that lead elsewhere; a method takes those that it has.
SWITCHES = {
    "defaults": {},
    "sparse and noisy": {"gate": {"noise": 1.0, "top_k": 2, "hidden": 5}},
    "a hidden layer": {"projector": {"hidden": 12}, "transfer": {"scale": 10.0}},
    "cached": {"token_cache": {"max_gb": 0.1}},
    "merged by readout": {"loss": "readout", "lm_weight": 0.5},
    "merged by Fisher": {"loss": "fisher", "keep": 1.0},
    "merged by LoRA": {"student": "lora", "loss": "cosine"},
}


def takes(kind: str, options: dict[str, Any]) -> bool:
    known = accepted_arguments(MODELS.get(kind))
    return known is None or {*options} <= {*known}


CASES = [
    pytest.param(kind, options, id=f"{kind}-{name}")
    for kind in METHODS
    for name, options in SWITCHES.items()
    if takes(kind, options)
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_every_method_trains_and_fuses(
    kind: str, options: dict, make_method: Any, language: Any, batch: dict, mode: FakeTensorMode
):
    model = on_cuda(make_method(kind, language, **options), mode).train()
    images = fake(mode, 3, 3, 40, 40, dtype=torch.uint8)
    with mode:
        losses = model(images, batch["data_samples"], mode="loss")
        assert {value.device for value in losses.values()} == {CUDA}
        assert {value.dim() for value in losses.values()} == {0}
        assert model.eval()(images, batch["data_samples"], mode="tensor").device == CUDA


@pytest.mark.parametrize("kind", [k for k in METHODS if getattr(MODELS.get(k), "detachable", 0)])
@pytest.mark.parametrize("gone", [["depth"], ["coarse", "fine", "depth"]], ids=["one", "all"])
def test_every_method_without_experts(
    kind: str, gone: list[str], make_method: Any, language: Any, batch: dict, mode: FakeTensorMode
):
    model = on_cuda(make_method(kind, language), mode).train()
    # Expert dropout draws on the CPU, which waits for nothing; its outcome is what matters here.
    model.dropped = lambda: frozenset(gone)
    images = fake(mode, 3, 3, 40, 40, dtype=torch.uint8)
    with mode:
        losses = model(images, batch["data_samples"], mode="loss")
    assert {value.device for value in losses.values()} == {CUDA}
