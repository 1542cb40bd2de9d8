"""Merging: who teaches, who learns, what is left."""

import os
import subprocess
import sys

import pytest
import torch
from mmengine.runner.checkpoint import get_state_dict
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tove.backbones.clip.encoder import TransformersCLIP
from tove.errors import ConfigError
from tove.methods.tove.merging import LOSSES, Merge, token_distance
from tove.registry import MODELS

LORA = {"type": "lora", "r": 2, "lora_alpha": 4}


def _train(merge, batch, steps=3, lr=0.05):
    optimizer = torch.optim.AdamW([p for p in merge.parameters() if p.requires_grad], lr=lr)
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(merge(**batch, mode="loss").values())
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


@pytest.mark.parametrize("student", ["full", {"trainable": LORA}, LORA])
@pytest.mark.parametrize("loss", LOSSES)
def test_student_learns_and_the_teacher_stays(make_model, batch, student, loss):
    merge = Merge(make_model(), student=student, loss=loss).train()
    teacher = {name: p.clone() for name, p in merge.teacher.named_parameters()}
    values = _train(merge, batch, steps=12, lr=5e-4 if student == "full" else 0.02)
    assert values[-1] < values[0]
    assert all(torch.equal(p, teacher[name]) for name, p in merge.teacher.named_parameters())
    assert not merge.teacher.training


def test_distances_by_hand():
    prediction = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]]])
    target = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    # By token: alike, at right angles, opposite; whatever their lengths.
    assert LOSSES["cosine"](prediction, target).item() == pytest.approx((0 + 1 + 2) / 3)
    assert LOSSES["mse"](prediction, target).item() == pytest.approx((1 + 1 + 9) / 6)
    assert LOSSES["smooth_l1"](prediction, target).item() == pytest.approx((0.5 + 0.5 + 2.5) / 6)


def test_readout_of_a_language_model_that_reads_the_tokens_themselves_compares_these():
    prediction, target = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    found = token_distance("readout", object(), prediction, target)
    torch.testing.assert_close(found, LOSSES["mse"](prediction, target))


def test_target_is_t_fuse_without_dropout_and_prediction_the_projected_student(make_model, batch):
    merge = Merge(make_model(expert_dropout=0.9)).train()
    target = merge.teacher.fuse(batch["images"]).t_fuse
    prediction = merge.teacher.projector.project_clip(merge.student(batch["images"] / 255))
    found = merge(**batch, mode="loss")["loss_merge"]
    torch.testing.assert_close(found, (prediction - target).square().mean())
    assert merge.student is not merge.teacher.encoder


def test_every_trained_parameter_gets_a_gradient(make_model, clip_folder, batch):
    encoder = {"type": "TransformersCLIP", "pretrained": clip_folder, "layer": -2}
    for student in ("full", LORA):
        merge = Merge(make_model(encoder=encoder), student=student)
        merge(**batch, mode="loss")["loss_merge"].backward()
        assert all(p.grad is not None for p in merge.parameters() if p.requires_grad)


def test_layers_above_the_tokens_stay_as_they_are(make_model, clip_folder, batch):
    encoder = {"type": "TransformersCLIP", "pretrained": clip_folder, "layer": -2}
    merge = Merge(make_model(encoder=encoder))
    _train(merge, batch)
    merged, source = merge.merged_encoder(), merge.teacher.encoder
    used = {name for name, _ in source.used_parameters()}
    for (name, new), (_, old) in zip(
        merged.named_parameters(), source.named_parameters(), strict=True
    ):
        assert torch.equal(new, old) == (name not in used), name


def test_lora_folds_into_the_plain_architecture(make_model, batch):
    merge = Merge(make_model(), student=LORA)
    _train(merge, batch)
    images = torch.rand(2, 3, 32, 32)
    merged = merge.merged_encoder()
    assert type(merged) is TransformersCLIP
    assert set(merged.state_dict()) == set(merge.teacher.encoder.state_dict())
    torch.testing.assert_close(merged(images), merge.student(images), atol=1e-5, rtol=1e-5)
    assert any("lora_" in name for name, _ in merge.student.named_parameters())
    assert not torch.allclose(merged(images), merge.teacher.encoder(images))


@pytest.mark.parametrize("student", ["full", LORA])
def test_the_merged_encoder_is_frozen_and_the_student_goes_on(make_model, batch, student):
    merge = Merge(make_model(), student=student).train()
    learning = {name for name, p in merge.named_parameters() if p.requires_grad}
    merged = merge.merged_encoder()
    assert not merged.training
    assert not any(p.requires_grad for p in merged.parameters())
    before = {name: p.clone() for name, p in merged.named_parameters()}
    assert {name for name, p in merge.named_parameters() if p.requires_grad} == learning
    _train(merge, batch)
    assert all(torch.equal(p, before[name]) for name, p in merged.named_parameters())


def test_language_loss_joins_on_labelled_samples_only(make_model, batch):
    batch["data_samples"][1]["target"] = ""
    merge = Merge(make_model(), lm_weight=0.5)
    losses = merge(**batch, mode="loss")
    assert set(losses) == {"loss_merge", "loss_lm"}
    rows = [0, 2]
    samples = [batch["data_samples"][row] for row in rows]
    memory = merge(batch["images"][rows])
    expected = merge.teacher.language.loss(memory, samples)
    torch.testing.assert_close(losses["loss_lm"], 0.5 * expected)


@pytest.fixture
def reading(clip_folder, tmp_path):
    """Config of a model without experts that reads with a causal language model."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "yes", "no", "red", "cube", "?"]
    core = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    special = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), words, strict=False))
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(tmp_path / "lm")
    torch.manual_seed(0)
    sizes = {"n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(words), **sizes)).save_pretrained(tmp_path / "lm")
    return {
        "type": "PlainCLIP",
        "_scope_": "tove",
        "encoder": {"type": "TransformersCLIP", "pretrained": clip_folder},
        "language": {"type": "CausalLanguageModel", "pretrained": str(tmp_path / "lm")},
    }


def test_language_loss_of_a_batch_without_labels_is_zero(reading, batch):
    samples = [{"image_id": s["image_id"], "task": "image"} for s in batch["data_samples"]]
    merge = Merge(MODELS.build(reading), lm_weight=0.5)
    assert merge(batch["images"], samples, mode="loss")["loss_lm"] == 0


ONE_OF_TWO = """
import sys, torch
from tove.methods.tove.merging import Merge
from tove.registry import MODELS
rank, store, case = int(sys.argv[1]), sys.argv[2], torch.load(sys.argv[3], weights_only=False)
torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
torch.manual_seed(1)
merge = Merge(MODELS.build(case["config"]), lm_weight=0.5)
wrapped = torch.nn.parallel.DistributedDataParallel(merge)
half = slice(2 * rank, 2 * rank + 2)
losses = wrapped(case["images"][half], case["samples"][half], mode="loss")
sum(losses.values()).backward()
mean = losses["loss_lm"].detach() / 2
torch.distributed.all_reduce(mean)
torch.testing.assert_close(mean, case["loss_lm"])
for name, parameter in merge.named_parameters():
    if name in case["grads"]:
        torch.testing.assert_close(parameter.grad, case["grads"][name], atol=1e-6, rtol=1e-4)
torch.distributed.destroy_process_group()
"""


def test_two_processes_of_which_one_has_no_target_give_the_gradients_of_one(reading, tmp_path):
    torch.manual_seed(1)
    merge = Merge(MODELS.build(reading), lm_weight=0.5)
    samples = [{"image_id": str(i), "task": "image"} for i in range(4)]
    samples[0] |= {"prompt": "red ?", "target": "yes"}
    samples[1] |= {"prompt": "", "target": "red cube"}
    images = torch.rand(4, 3, 32, 32)
    losses = merge(images, samples, mode="loss")
    sum(losses.values()).backward()
    case = {"config": reading, "images": images, "samples": samples}
    case["loss_lm"] = losses["loss_lm"].detach()
    case["grads"] = {n: p.grad for n, p in merge.named_parameters() if p.grad is not None}
    torch.save(case, tmp_path / "case.pt")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [f"file://{tmp_path}/store", str(tmp_path / "case.pt")]
    ranks = [
        subprocess.Popen([sys.executable, "-c", ONE_OF_TWO, str(rank), *arguments], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]


def test_unlabelled_images_need_no_text(make_model, batch):
    samples = [{"image_id": s["image_id"], "task": "image"} for s in batch["data_samples"]]
    losses = Merge(make_model())(batch["images"], samples, mode="loss")
    assert set(losses) == {"loss_merge"}


def test_teachers_cache_saves_its_frozen_work(make_model, batch):
    merge = Merge(make_model(token_cache={"max_gb": 1e-3}))
    _train(merge, batch)
    assert merge.teacher.hub.forward_counts == {"coarse": 1, "fine": 1}


def test_predict_uses_the_student_and_runs_no_expert(make_model, batch):
    merge = Merge(make_model()).eval()
    answers = merge(**batch, mode="predict")
    plain = make_model(kind="PlainCLIP")
    plain.load_state_dict(
        {n: t for n, t in merge.teacher.state_dict().items() if n in plain.state_dict()}
    )
    plain.language = merge.teacher.language
    expected = plain.eval()(**batch, mode="predict")
    assert [a["prediction"] for a in answers] == [a["prediction"] for a in expected]
    assert not merge.teacher.hub.forward_counts


@pytest.mark.parametrize("student", ["full", LORA])
def test_checkpoint_holds_student_and_what_the_teacher_learned(make_model, batch, student):
    merge = Merge(make_model(seed=1), student=student)
    _train(merge, batch)
    state = merge.state_dict()
    assert set(state) == set(get_state_dict(merge))
    trained = {name for name, p in merge.named_parameters() if p.requires_grad}
    assert set(state) == trained | {f"teacher.{name}" for name in merge.teacher.state_dict()}
    again = Merge(make_model(seed=2), student=student)
    again.load_state_dict(state, strict=True)
    again.load_trainable(state)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again(images), merge(images))
    del state["teacher.transfer.scale"]
    with pytest.raises(RuntimeError, match=r"transfer\.scale"):
        again.load_state_dict(state, strict=True)


def test_mistakes_are_sentences(make_model):
    model = make_model()
    with pytest.raises(ConfigError, match=r"model\.student"):
        Merge(model, student="half")
    with pytest.raises(ConfigError, match="rank"):
        Merge(model, student={"type": "lora", "rank": 4})
    with pytest.raises(ConfigError, match="target_modules"):
        Merge(model, student={"type": "lora", "target_modules": ["qkv"]})


def test_a_student_that_trains_along_learns_t_fuse_and_leaves_plain_clip(make_model, batch):
    model = make_model(merging={"weight": 0.5, "loss": "mse"}).train()
    fused = model.fuse(batch["images"])
    losses = model.losses(fused, batch["data_samples"])
    predicted = model.plain_tokens(model.merging.student(batch["images"].float() / 255))
    expected = 0.5 * (predicted - fused.t_fuse.detach()).square().mean()
    torch.testing.assert_close(losses["loss_merge"], expected)
    sum(losses.values()).backward()
    student = dict(model.merging.student.used_parameters())
    assert student
    assert all(parameter.grad is not None for parameter in student.values())
    with torch.no_grad():
        for parameter in student.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    plain = make_model(kind="PlainCLIP", language=model.language)
    plain.load_trainable(model.deployed())
    images = torch.rand(2, 3, 32, 32)
    wanted = model.projector.project_clip(model.merging.student(images))
    torch.testing.assert_close(plain.eval()(images), wanted)
    assert make_model().deployed() is None


def test_a_student_that_trains_along_costs_nothing_when_the_model_answers(make_model, batch):
    model, without = make_model(merging={}), make_model()
    assert not model.eval().fuse(batch["images"]).losses
    images = torch.rand(1, 3, 32, 32)
    fusion = [m.cost_parts(images)["fusion"].modules for m in (model, without)]
    assert [len(modules) for modules in fusion] == [3, 3]
