"""What is frozen under a checkpoint has a fingerprint, whatever trains or is cast."""

import time

import pytest
import torch
from torch import nn

from tove.backbones.clip.encoder import TransformersCLIP
from tove.engine.checkpoint import read_checkpoint, save_checkpoint
from tove.engine.fingerprints import check_frozen, fingerprints
from tove.errors import CheckpointError
from tove.methods.tove.merging import Merge


def of(module: nn.Module) -> str:
    return fingerprints(part=module)["part"]


def layers(*names: str, size: int = 100) -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(size, 3) for name in names}).requires_grad_(False)


def test_other_values_names_or_shapes_are_other_weights():
    same = of(layers("a", "b"))
    assert of(layers("a", "b")) == same
    changed = layers("a", "b")
    changed["b"].bias[1] *= 1.5
    assert of(changed) != same
    assert of(layers("a", "c")) != same
    assert of(layers("a", "b", size=99)) != same


def test_large_weights_are_sampled_over_all_of_their_length():
    module = nn.Linear(1_000, 1_000).requires_grad_(False)
    before = of(module)
    module.weight[500:] += 1.0
    assert of(module) != before


def test_what_trains_does_not_count():
    module = layers("a", "b")
    module["b"].requires_grad_(True)
    before = of(module)
    module["b"].weight.data += 1.0
    assert of(module) == before


def test_the_same_weights_in_half_precision_or_for_another_image_size_are_the_same(clip_folder):
    assert of(layers("a").bfloat16()) == of(layers("a"))
    native, larger = TransformersCLIP(clip_folder), TransformersCLIP(clip_folder, image_size=48)
    assert of(native.requires_grad_(False)) == of(larger.requires_grad_(False))


def test_it_takes_no_time():
    module = nn.ModuleList(nn.Linear(1_000, 1_000) for _ in range(30)).requires_grad_(False)
    start = time.perf_counter()
    of(module)
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize("student", ["full", {"type": "lora", "r": 2}])
def test_a_teacher_keeps_its_fingerprints(make_model, student):
    teacher = make_model()
    before = dict(teacher.frozen)
    model = Merge(teacher, student=student)
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter += 1.0
    assert model.teacher.frozen == before
    assert make_model(seed=1).frozen["encoder"] == before["encoder"]


def test_trained_parts_leave_the_fingerprints_as_they_are(make_model, fake_language, tmp_path):
    language = fake_language()
    model = make_model(language=language)
    save_checkpoint(tmp_path / "x.pth", model, {"frozen": model.frozen})
    language.head.weight.data += 1.0
    saved = read_checkpoint(tmp_path / "x.pth")["meta"]["frozen"]
    check_frozen(saved, make_model(language=language).frozen, "x.pth")
    language.body.weight.data += 1.0
    with pytest.raises(CheckpointError, match=r"another language: .*model\.language\.pretrained"):
        check_frozen(saved, make_model(language=language).frozen, "x.pth")


def test_a_checkpoint_that_does_not_say_is_read():
    check_frozen(None, {"encoder": "abc"}, "x.pth")
    check_frozen({"language": "abc"}, {"encoder": "abc", "language": "abc"}, "x.pth")


def test_half_precision_that_rounds_otherwise_is_compared_with_nothing():
    full, half = layers("a"), layers("a").half()
    assert of(half) == ""
    check_frozen({"part": of(full)}, {"part": of(half)}, "x.pth")
    assert of(layers("a").bfloat16()) == of(full)
