"""The composition with the real parts: discovered experts, a causal LM of transformers, DDP."""

import os
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tove.methods.tove.merging import Merge
from tove.registry import MODELS
from tove_plugins import discover

WORDS = ["<pad>", "<s>", "</s>", "<unk>", "yes", "no", "red", "cube", "?"]


@pytest.fixture(scope="module")
def config(clip_folder, tmp_path_factory):
    """A ToVE's config with the tiny world's experts in their random form."""
    folder = str(tmp_path_factory.mktemp("lm"))
    torch.manual_seed(2)
    core = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    special = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), WORDS, strict=False))
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    sizes = {"n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(WORDS), **sizes)).save_pretrained(folder)
    return {
        "type": "ToVE",
        "_scope_": "tove",
        "encoder": {"type": "TransformersCLIP", "pretrained": clip_folder},
        "experts": {
            name: {"type": name, "tiny": True}
            for name in discover().experts
            if name.startswith("tiny_")
        },
        "language": {
            "type": "CausalLanguageModel",
            "pretrained": folder,
            "adapters": {"type": "bottleneck", "width": 8},
        },
        "projector": {"hidden": 32},
        "transfer": {"zero_init": False},
    }


@pytest.fixture
def real_batch():
    torch.manual_seed(1)
    tasks = ["statement", "caption"] * 2
    samples = [
        {
            "image_id": str(index),
            "task": task,
            "prompt": "red cube ?",
            "target": "yes",
            "candidates": ["no", "yes"],
        }
        for index, task in enumerate(tasks)
    ]
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    return {"images": images, "data_samples": samples}


def test_trains_predicts_and_merges(config, real_batch):
    torch.manual_seed(0)
    model = MODELS.build(config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = sum(model(**real_batch, mode="loss").values())
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0] - 0.2
    answers = model.eval()(**real_batch, mode="predict")
    assert [a["prediction"] for a in answers[::2]] == [1, 1]
    assert all(isinstance(a["prediction"], str) for a in answers[1::2])
    losses = Merge(model, lm_weight=0.1)(**real_batch, mode="loss")
    sum(losses.values()).backward()
    assert losses["loss_merge"] > 0


ONE_OF_TWO = """
import sys, torch
from tove.registry import MODELS
rank, store, case = int(sys.argv[1]), sys.argv[2], torch.load(sys.argv[3], weights_only=False)
torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
model = MODELS.build(case["config"])
model.load_state_dict(case["state"], strict=False)
wrapped = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
half = slice(2 * rank, 2 * rank + 2)
batch = {"images": case["images"][half], "data_samples": case["data_samples"][half]}
torch.manual_seed(case["seed"])
losses = wrapped(**batch, mode="loss")
sum(losses.values()).backward()
mean = losses["loss_lm"].detach() / 2
torch.distributed.all_reduce(mean)
torch.testing.assert_close(mean, case["loss_lm"])
torch.testing.assert_close(losses["loss_balance"].detach(), case["loss_balance"])
for name, parameter in model.named_parameters():
    if name in case["grads"]:
        torch.testing.assert_close(parameter.grad, case["grads"][name], atol=1e-6, rtol=1e-4)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(config, real_batch, tmp_path):
    torch.manual_seed(0)
    config = {**config, "expert_dropout": 1.0, "balance_weight": 1.0}
    model = MODELS.build(config)
    seed = 5
    torch.manual_seed(seed)
    losses = model(**real_batch, mode="loss")
    ran = [slot for slot, count in model.hub.forward_counts.items() if count]
    assert 0 < len(ran) < len(model.slots)
    sum(losses.values()).backward()
    case = {"config": config, "state": torch.nn.Module.state_dict(model), "seed": seed}
    # The tiny experts are random: all processes need the same, and only their slots' weights.
    case["state"] |= {f"hub.{name}": t for name, t in model.hub.state_dict().items()}
    case |= real_batch | {name: value.detach() for name, value in losses.items()}
    case["grads"] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    torch.save(case, tmp_path / "case.pt")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [f"file://{tmp_path}/store", str(tmp_path / "case.pt")]
    ranks = [
        subprocess.Popen([sys.executable, "-c", ONE_OF_TWO, str(rank), *arguments], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
