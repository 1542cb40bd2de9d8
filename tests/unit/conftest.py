"""Tiny random stand-ins: a CLIP on disk, experts as research code, a language model; the log."""

import logging
from dataclasses import replace

import pytest
import torch
from packaging.version import Version
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from tove.config.validation import accepted_arguments
from tove.registry import MODELS
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec

STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def _clip_config(**vision):
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    text = {"num_hidden_layers": 2, "vocab_size": 99, "max_position_embeddings": 12}
    vision = {"num_hidden_layers": 3, "image_size": 32, "patch_size": 8, **vision}
    return CLIPConfig(
        text_config={**tower, **text, "eos_token_id": 2, "bos_token_id": 1},
        vision_config={**tower, **vision},
        projection_dim=24,
    )


@pytest.fixture(scope="session")
def fake_cuda():
    """A GPU of fake tensors; older torch ends the process as it records a graph of them."""
    if Version(torch.__version__) < Version("2.14"):
        pytest.skip("torch 2.6 aborts, 2.14 does not, between them nobody tried")


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory):
    """Write a random CLIPModel and give its folder."""

    def make(**vision):
        folder = tmp_path_factory.mktemp("clip")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            CLIPModel(_clip_config(**vision)).save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def clip_folder(make_clip):
    return make_clip()


class Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records = []

    def emit(self, record) -> None:
        self.records.append(record)


@pytest.fixture
def log():
    from mmengine.logging import MMLogger

    logger, listener = MMLogger.get_current_instance(), Listener()
    logger.addHandler(listener)
    yield listener.records
    logger.removeHandler(listener)


class FakeExpert(nn.Module):
    """A strided convolution: 6 or 10 numbers per cell of a 3x3 or 8x8 grid."""

    width, side, name = 6, 3, "fake"

    def __init__(self, scale=1.0):
        super().__init__()
        self.conv = nn.Conv2d(3, self.width, 4, stride=4)
        self.scale = scale

    def forward(self, images):
        return self.scale * self.conv(images).flatten(2).transpose(1, 2)

    def __init_subclass__(cls):
        side = cls.side * 4
        cls.spec = ExpertSpec(
            cls.name,
            "testing",
            "tests:FakeExpert",
            TokenSpec(cls.width, (cls.side, cls.side)),
            ImageSpec((side, side), *STATISTICS),
        )


class Coarse(FakeExpert):
    pass


class Fine(FakeExpert):
    width, side, name = 10, 8, "fine"


class FakeLanguage(nn.Module):
    """Reads the mean token; frozen but for its head."""

    width = 20

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(self.width, self.width).requires_grad_(False)
        self.head = nn.Linear(self.width, 2)

    def _logits(self, memory):
        return self.head(self.body(memory.mean(1)))

    def loss(self, memory, samples):
        labels = torch.tensor([int(s["target"] == "yes") for s in samples], device=memory.device)
        return F.cross_entropy(self._logits(memory), labels)

    def rank(self, memory, samples):
        return self._logits(memory).log_softmax(-1).tolist()

    def generate(self, memory, samples, **options):
        return [f"{sample['prompt']} thing" for sample in samples]


@pytest.fixture
def expert_types():
    return {"coarse": Coarse, "fine": Fine}


@pytest.fixture
def experts(expert_types):
    return {slot: {"type": kind} for slot, kind in expert_types.items()}


@pytest.fixture
def fake_language():
    return FakeLanguage


@pytest.fixture
def make_model(clip_folder, experts):
    """Build a model with the same weights at every call, a ToVE by default; options override."""

    def make(seed=0, kind="ToVE", **options):
        torch.manual_seed(seed)
        settings = {
            "encoder": {"type": "TransformersCLIP", "pretrained": clip_folder},
            "experts": experts,
            "language": FakeLanguage(),
            "projector": {"hidden": 16},
            "transfer": {"zero_init": False},
        }
        known = accepted_arguments(MODELS.get(kind)) or {*settings, *options}
        given = {name: value for name, value in {**settings, **options}.items() if name in known}
        return MODELS.get(kind)(**given)

    return make


# What some methods cannot be built without.
NEEDED = {"expert": "depth", "mole": {"num_experts": 2, "rank": 2}}


@pytest.fixture
def make_method(make_model, clip_folder, expert_types):
    """Build any method around a language model, with what only some of them take."""

    class Depth(expert_types["fine"]):
        name = "depth"

    Depth.spec = replace(Depth.spec, tokens=replace(Depth.spec.tokens, kind="map"))
    experts = {slot: {"type": kind} for slot, kind in {**expert_types, "depth": Depth}.items()}

    def make(kind, language, **options):
        shared = {
            "experts": experts,
            "language": language,
            "encoder": {"type": "TransformersCLIP", "pretrained": clip_folder},
        }
        teacher = {"teacher": {"type": "ToVE", **shared}}
        return make_model(kind=kind, **NEEDED, **teacher, **shared, **options)

    return make


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    tasks = ["statement", "caption", "statement"]
    samples = [
        {
            "image_id": f"i{index}",
            "task": task,
            "prompt": f"p{index}",
            "target": "yes" if index else "no",
            "candidates": ["no", "yes"],
        }
        for index, task in enumerate(tasks)
    ]
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=generator)
    return {"images": images, "data_samples": samples}
