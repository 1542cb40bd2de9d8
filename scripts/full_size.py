"""What a config trains at full size, without a weight on the machine: parameters and memory.

    python scripts/full_size.py configs/move_kd/move_kd-v1.0-llava-v1.5-7b_finetune.py --processes 8

Everything is built on the meta device: shapes, no numbers. Architectures of hub ids are known here
(`ARCHITECTURES`), those of experts by their specs. Memory is that of weights, gradients and AdamW's
two moments in float32, whole in each process and as `--processes` shards of it; activations are not
in it.
"""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.registry import Registry, init_default_scope
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "openai/clip-vit-large-patch14-336": dict(
        hidden_size=1024,
        intermediate_size=4096,
        num_attention_heads=16,
        num_hidden_layers=24,
        image_size=336,
        patch_size=14,
    ),
    "lmsys/vicuna-7b-v1.5": dict(max_position_embeddings=4096),  # else LlamaConfig's defaults
    "dinov2_large": dict(num_hidden_layers=24, num_attention_heads=16),
    "sam_vit_l": dict(  # a spec has what its tokens depend on, the weights' own config the rest
        num_hidden_layers=24, num_attention_heads=16, global_attn_indexes=[5, 11, 17, 23]
    ),
}


def _vision_model(kind: type[CLIPVisionModel], source: str, pretrained: str) -> nn.Module:
    if source in ARCHITECTURES:
        return kind(CLIPVisionConfig(**ARCHITECTURES[source]))
    return kind(CLIPVisionConfig.from_pretrained(source))  # an export's folder


def _language_model(pretrained: str, fusion: str, dtype: str | None) -> tuple[Any, Any]:
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(**ARCHITECTURES[pretrained])
    model: Any = LlamaForCausalLM(config)
    model.to(getattr(torch, dtype or "float32"))
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    ends = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return model, PreTrainedTokenizerFast(tokenizer_object=words, **ends)


def _expert(cfg: Mapping[str, Any], registry: Registry) -> nn.Module:
    from tove.backbones.experts.registration import expert_options, expert_spec

    spec = expert_spec(cfg).spec
    module, _, name = spec.factory.partition(":")
    options = {**spec.options, **expert_options(cfg)}
    if cfg["type"] in ARCHITECTURES:
        options["config"] = {**options["config"], **ARCHITECTURES[cfg["type"]]}
    expert: nn.Module = getattr(import_module(module), name)(spec=spec, weights=None, **options)
    return expert


@contextmanager
def without_weights() -> Iterator[None]:
    """Build encoders, language models and experts of a config on the meta device."""
    from tove.backbones.preprocess import Preprocess
    from tove.registry import EXPERTS

    def preprocess(source: str, side: int) -> Preprocess:
        return Preprocess((side, side), (0.5,) * 3, (0.5,) * 3)

    clip, chat = "tove.backbones.clip.encoder", "tove.backbones.language.chat"
    with ExitStack() as stack:
        for name, stand_in in {
            f"{clip}.load_whole": _vision_model,
            f"{clip}.locate": lambda pretrained: pretrained,
            f"{clip}.own_preprocess": preprocess,
            f"{chat}.load_causal_lm": _language_model,
            "tove.methods.vision_language_model.fingerprints": lambda **parts: {},
        }.items():
            stack.enter_context(patch(name, stand_in))
        stack.enter_context(patch.object(EXPERTS, "build_func", _expert))
        stack.enter_context(torch.device("meta"))
        yield


def build(cfg: Config, stage: Mapping[str, Any]) -> nn.Module:
    """Return the model of a training stage as it trains, on the meta device."""
    from tove.engine.planning import method_settings, run_overlay
    from tove.engine.trainable_state import choose_trained
    from tove.registry import MODELS

    init_default_scope("tove")
    MODELS.get("PlainCLIP")  # imports what `without_weights` replaces parts of
    import_module("tove.backbones.language.chat")
    with without_weights():
        model: nn.Module = MODELS.build(method_settings(cfg.model, run_overlay(cfg, stage["name"])))
    trains = stage.get("trains")
    if trains is not None:
        choose_trained(model, [trains] if isinstance(trains, str) else trains, "trains")
    return model


def parts_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the parameters by part: MoLE apart from the encoder, teachers and adapters by slot."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        path = name.split(".")
        if path[0] == "encoder" and {"down", "up", "around", "router"} & set(path):
            part = "encoder: MoLE"
        elif path[0] == "hub":
            part = f"teacher {path[2]}"
        elif path[0] == "adapters":
            part = f"adapter {path[1]}"
        else:
            part = {"clip": "teacher CLIP"}.get(path[0], path[0])
        parts.setdefault(part, []).append(parameter)
    return parts


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--processes", type=int, default=8, help="that share the model")
    return parser.parse_args(argv)


def main() -> None:
    """Print a table for each training stage of a config."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    for stage in cfg.stages:
        if stage["type"] != "TrainStage":
            continue
        parts = parts_of(build(cfg, stage))
        every = [p for part in parts.values() for p in part]
        print(f"{stage['name']}\n{'':20}{'parameters':>16}{'trainable':>16}{'weights GB':>12}")
        for part, own in {**parts, "in all": every}.items():
            trained = sum(p.numel() for p in own if p.requires_grad)
            size = sum(p.numel() * p.element_size() for p in own) / 1e9
            print(f"{part:20}{sum(p.numel() for p in own):>16,}{trained:>16,}{size:>12.2f}")
        held = sum(p.numel() * (p.element_size() + 12 * p.requires_grad) for p in every) / 1e9
        shard = held / args.processes
        print(f"memory without activations: {held:.1f} GB, {shard:.1f} GB as a shard of it\n")


if __name__ == "__main__":
    main()
