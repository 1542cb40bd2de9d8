"""Trains the tiny world's chat model: a small Llama that reads images it has not learned to see.

    python scripts/train_tiny_chat.py [--steps N]

Where an image stands, it is given a SYMBOLIC description of the scene (one vector per image token:
what is there, where, how far, how big), as the tiny GPT-2 is. It never sees a pixel. A reader, an
MLP that is thrown away, turns the description into the model's width, so that a projector has only
to take the reader's place. Depth and size are hidden in part of the scenes, colour and shape in
few, so that the model stays calibrated where an encoder does not tell them.

To look things up is learned first, from single questions and a vector an object, a thirteenth of
the tokens; then come conversations and captions, then an image's tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny_chat_lessons import IMAGE, Batch, Writer, lesson, pad
from train_tiny_encoders import ROOT, Trainer
from train_tiny_language import SYMBOLS, object_symbols, symbols

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerFast

    from tove.data.tiny_world.rendered import Pool

HIDDEN = (((15, 17), 0.25), ((1, 8), 0.05), ((8, 11), 0.1))
"""Columns of the symbols, and in which share of the scenes they are hidden: depth and size, colour,
shape."""
TOLD = 0.3
SHORT, OBJECTS = 0.5, 0.75
"""Up to which share of the steps lessons are short, and an object is one vector."""
HELD_OUT = 1000


def parse_arguments() -> argparse.Namespace:
    """Read the command line; the defaults are the shipped weights'."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=64, help="scenes a step")
    parser.add_argument("--scenes", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "core/tove/assets/tiny_chat")
    return parser.parse_args()


def chat_model(tokenizer: PreTrainedTokenizerFast) -> Any:  # noqa: ANN401
    """Build the model with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    # For short texts the plain product is faster than torch's fused one, in bfloat16 at least.
    return LlamaForCausalLM(
        LlamaConfig(
            attn_implementation="eager",
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256,
            num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=1024, initializer_range=0.1, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def logits_of(model: Any, batch: Batch, image_BND: Tensor) -> Tensor:  # noqa: ANN401 - a Llama
    """Return the logits [B, T - 1, V] of each next token."""
    inside = batch.ids == IMAGE
    embeds = model.get_input_embeddings()(batch.ids.masked_fill(inside, 0))
    embeds = embeds.masked_scatter(inside[..., None], image_BND[batch.seen])
    return model(inputs_embeds=embeds, use_cache=False).logits[:, :-1]


def loss_of(logits: Tensor, batch: Batch, padding: int) -> Tensor:
    """Return the answers' cross-entropy, and a part of all words': what can be asked of a scene."""
    from torch.nn import functional as F

    wanted, learned = batch.ids[:, 1:], batch.learned[:, 1:]
    text = (wanted != IMAGE) & (wanted != padding)
    loss = F.cross_entropy(logits[text], wanted[text], reduction="none")
    answers = learned[text]
    return loss[answers].mean() + TOLD * loss[~answers].mean()


def hide(memory: Tensor) -> Tensor:
    """Hide some of what is known of some scenes, and add a little noise."""
    import torch

    memory = memory + 0.05 * torch.randn_like(memory)
    for (first, last), share in HIDDEN:
        memory[..., first:last] *= (torch.rand(len(memory), 1, 1) >= share).float()
    return memory


def score(
    model: nn.Module,
    image_of: Callable[[Tensor], Tensor],
    pool: Pool,
    tokenizer: PreTrainedTokenizerFast,
    first: int,
) -> dict[str, float]:
    """Return the share of answers about unseen scenes that are right to the token, by kind."""
    import torch

    from tove.data.tiny_world.dialogue import KINDS, ask
    from tove.data.tiny_world.rendered import seeded

    writer = Writer(tokenizer)
    hits: dict[str, list[bool]] = {}
    with torch.inference_mode():
        for rows in torch.arange(first, len(pool)).split(250):
            image = image_of(rows)
            for kind in KINDS:
                asked = [ask(pool.things[r], kind, seeded(7, r)) for r in rows.tolist()]
                kept = [i for i, question in enumerate(asked) if question]
                texts = [
                    writer.conversation([(q.text, q.answer)], kind != "words") for q in asked if q
                ]
                batch = pad(texts, image.shape[1], tokenizer.pad_token_id)
                guess = logits_of(model, batch, image[torch.tensor(kept)]).argmax(-1)
                right = (guess == batch.ids[:, 1:]) | ~batch.learned[:, 1:]
                hits.setdefault(kind, []).extend(right.all(1).tolist())
    return {kind: round(sum(found) / len(found), 3) for kind, found in hits.items()}


def train(pool: Pool, args: argparse.Namespace) -> dict[str, Any]:
    """Train a model and write its folder; return its scores."""
    import torch
    from torch import nn

    from tove.data.tiny_world.rendered import batches
    from tove.data.tiny_world.tokenizer import chat_tokenizer

    tokenizer = chat_tokenizer()
    model, writer, rng = chat_model(tokenizer), Writer(tokenizer), random.Random(args.seed)
    padding = tokenizer.pad_token_id
    reader = nn.Sequential(nn.Linear(SYMBOLS, 192), nn.GELU(), nn.Linear(192, 96))
    held_out = len(pool) - HELD_OUT
    trainer = Trainer([model, reader], args.steps, lr=2e-3)

    def objects(rows: Tensor) -> Tensor:
        return reader(object_symbols(pool, rows))

    def tokens(rows: Tensor) -> Tensor:
        return reader(symbols(pool, rows))

    def flat(rows: Tensor) -> Tensor:
        memory = symbols(pool, rows)
        memory[..., 15:17] = 0
        return reader(memory)

    for step, rows in enumerate(batches(held_out, args.batch, args.steps, args.seed)):
        done = step / args.steps
        image = reader(hide((object_symbols if done < OBJECTS else symbols)(pool, rows)))
        texts = [lesson(writer, pool.things[row], rng, done < SHORT) for row in rows.tolist()]
        batch = pad(texts, image.shape[1], padding)
        with torch.autocast("cpu", torch.bfloat16):
            logits = logits_of(model, batch, image)
        trainer.step(loss_of(logits.float(), batch, padding))
        if (step + 1) % 200 == 0:
            given = objects if done < OBJECTS else tokens
            print(score(model, given, pool, tokenizer, len(pool) - 250), flush=True)
    model.eval()
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    return {
        "steps": args.steps,
        "batch": args.batch,
        "accuracy_given_symbols": score(model, tokens, pool, tokenizer, held_out),
        "accuracy_without_depth_and_size": score(model, flat, pool, tokenizer, held_out),
    }


def main() -> None:
    """Train the model and write it with its card."""
    args = parse_arguments()
    import torch

    sys.path[:0] = [str(ROOT), str(ROOT / "core"), str(ROOT / "expert_plugins")]
    from tove.data.tiny_world.rendered import TRAIN_SEED, make_pool

    torch.manual_seed(args.seed)
    start = time.time()
    pool = make_pool(TRAIN_SEED, 0, args.scenes, side=32)  # the images are not looked at
    result = train(pool, args)
    path = args.out / "model.safetensors"
    card = {
        "name": "tiny_chat",
        "seed": args.seed,
        "data": f"{len(pool)} rendered scenes, stream 0",
        "licence": "Apache-2.0",
        "minutes": round((time.time() - start) / 60, 1),
        "score": result,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size_mb": round(path.stat().st_size / 1e6, 2),
    }
    (args.out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
