"""On a GPU that is not there: no stray CPU tensor and no wait for the device in a forward.

Under FakeTensorMode tensors have a device and no data: `.item()`, `if tensor`, `.tolist()`,
`nonzero` and mixed devices raise.
"""

import json

import open_clip
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from tove.backbones.clip.encoder import OpenCLIP, TransformersCLIP
from tove.backbones.language.causal_lm import CausalLanguageModel
from tove.backbones.transformers_vit import TransformersViT
from tove.data.tiny_world.tokenizer import tiny_tokenizer

TOWER = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
)


# One for all tests: the library keeps positions that it has once computed.
MODE = FakeTensorMode()


def on_cuda(module):
    """Put fake tensors on the GPU in place of a module's own."""
    for part in module.modules():
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is None:
                continue
            fake = MODE.from_tensor(tensor.data)
            with MODE:
                fake = fake.to("cuda")
            if name in part._parameters:
                part._parameters[name] = torch.nn.Parameter(fake, tensor.requires_grad)
            else:
                part._buffers[name] = fake
    return module


@pytest.fixture(autouse=True)
def a_card(monkeypatch):
    """What asks torch about the card is answered as a machine with one would."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *args: self)


def open_clip_folder(folder):
    tower = {"width": 32, "layers": 2}
    config = {
        "embed_dim": 24,
        "vision_cfg": {**tower, "head_width": 8, "patch_size": 8, "image_size": 32},
        "text_cfg": {**tower, "heads": 4, "context_length": 12, "vocab_size": 99},
    }
    folder.mkdir()
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    seen = {"mean": [0.4] * 3, "std": [0.3] * 3}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": seen})
    (folder / "open_clip_config.json").write_text(text)
    return str(folder)


def vit_folder(kind, folder):
    AutoModel.from_config(AutoConfig.for_model(kind, **TOWER)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def encoder(request, tmp_path, clip_folder):
    if request.param == "clip":
        return TransformersCLIP(clip_folder)
    if request.param == "open_clip":
        return OpenCLIP(open_clip_folder(tmp_path / "clip"))
    return TransformersViT(vit_folder(request.param, tmp_path))


ENCODERS = ["clip", "open_clip", "siglip_vision_model", "dinov2", "dinov3_vit"]


@pytest.mark.parametrize("encoder", ENCODERS, indirect=True)
@pytest.mark.parametrize("train", [False, True])
def test_an_encoder(encoder, train):
    on_cuda(encoder).train(train)
    with MODE:
        images = torch.empty(2, 3, 40, 40, device="cuda")
        tokens, with_class = encoder(images), encoder.encode(images)
    assert (tokens.device.type, tokens.shape) == ("cuda", (2, 16, 32))
    assert with_class.shape == (2, 16 + encoder.has_class_token, 32)


@pytest.mark.parametrize("encoder", ["clip"], indirect=True)
@pytest.mark.parametrize("sync", [lambda x: x.sum().item(), lambda x: x + torch.ones(32)])
def test_the_harness_sees_a_wait_and_a_stray_tensor(encoder, sync):
    block = encoder.tower.encoder.layers[0]
    block.register_forward_pre_hook(lambda module, inputs: sync(inputs[0]) and None)
    on_cuda(encoder)
    with MODE, pytest.raises(RuntimeError, match=r"_local_scalar_dense|two.* devices"):
        encoder(torch.empty(2, 3, 32, 32, device="cuda"))


# transformers 4 asks the device in each forward whether every vision token is to be seen.
WAITS = pytest.mark.xfail(
    transformers.__version__ < "5",
    raises=DataDependentOutputException,
    strict=True,
    reason="GPT-2's cross-attention waits for the device in transformers 4",
)


@pytest.mark.parametrize("fusion", [pytest.param("cross_attention", marks=WAITS), "prefix"])
@pytest.mark.parametrize("loss_mean", ["tokens", "samples"])
def test_the_language_models_loss(tmp_path, fusion, loss_mean):
    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(
        "gpt2", vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    language = CausalLanguageModel(
        str(tmp_path), fusion, adapters=dict(type="bottleneck", width=4), loss_mean=loss_mean
    )
    on_cuda(language).train()
    with MODE:
        memory = torch.empty(2, 9, 32, device="cuda")
        samples = [{"prompt": "a red ball", "target": "a box"}, {"prompt": "", "target": None}]
        loss = language.loss(memory, samples)
    assert (loss.device.type, loss.shape) == ("cuda", ())
