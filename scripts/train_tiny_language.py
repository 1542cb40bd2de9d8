"""Trains the tiny world's language model, then aligns the tiny CLIP's tokens with it.

    python scripts/train_tiny_language.py lm|align [--steps N]

lm     A GPT-2 with cross-attention learns the world's language over a SYMBOLIC description of
       scenes (one vector per image token: what is there, where, how far, how big). It never sees
       a pixel. Depth and size are hidden half of the time, so that it stays calibrated without.
align  P_clip (first and shared layer of the projector) learns to turn the tiny CLIP's tokens into
       that memory, from captions and from statements about what is where in the IMAGE (existence,
       counts, left, above, ...): nothing about depth or size. The language model stays frozen.

Both write weights with a card next to them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from train_tiny_encoders import ROOT, Trainer, load_pool, normalised, with_shipped

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerFast

    from tove.data.tiny_world.rendered import Pool
    from tove.data.tiny_world.text import Thing

# Steps and scenes a step that the shipped weights had, as their cards say.
SHIPPED = {"lm": (4500, 64), "align": (1200, 48)}
SHORT = 14
"""Tokens of the longest statement with its answer."""
SYMBOLS = 1 + 7 + 3 + 2 + 2 + 4 + 1 + 1
PROMPT = "{statement} ?"
CAPTION_PROMPT = "a picture of"


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=SHIPPED)
    parser.add_argument("--steps", type=int, help="training steps; else the shipped weights'")
    parser.add_argument("--batch", type=int, help="scenes a step; else the shipped weights'")
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=Path, default=Path("data/tiny_pool.pt"))
    parser.add_argument("--out", type=Path, default=ROOT / "core/tove/assets")
    return with_shipped(parser.parse_args(), SHIPPED)


def symbols(pool: Pool, rows: Tensor) -> Tensor:
    """[B, 64, SYMBOLS]: what a perfect observer would write down for each image token.

    object?, colour, shape, background kind, the token's place, the object's box, depth, size.
    """
    import torch
    from torch.nn import functional as F

    from tove.data.tiny_world.render import GROUND
    from tove.data.tiny_world.rendered import object_of_cells

    cell = pool.instance[rows].long().flatten(1)
    inside = (cell < GROUND).float()[..., None]
    known = [
        F.one_hot(object_of_cells(pool, rows, pool.colour), 7).float(),
        F.one_hot(object_of_cells(pool, rows, pool.shape), 3).float(),
        4 * (object_of_cells(pool, rows, pool.boxes) - 0.5),
        3 * (object_of_cells(pool, rows, pool.centre_depth.log()[..., None]) - 1.6),
        2 * (object_of_cells(pool, rows, pool.size.log()[..., None]) + 0.5),
    ]
    content = torch.cat([inside, *(k * inside for k in known)], -1)  # [B, 256, 17]
    total = content.reshape(len(rows), 8, 2, 8, 2, -1).sum((2, 4)).flatten(1, 2)
    tokens = torch.cat([total[..., :1] / 4, total[..., 1:] / total[..., :1].clamp(min=1)], -1)
    ticks = (torch.arange(8) + 0.5) / 8
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    place = 4 * (torch.stack([x, y], -1) - 0.5).reshape(1, 64, 2).expand(len(rows), -1, -1)
    background = F.one_hot((cell - GROUND).clamp(min=0), 2).float() * (1 - inside)
    background = background.reshape(len(rows), 8, 2, 8, 2, 2).mean((2, 4)).flatten(1, 2)
    return torch.cat([tokens, background, place], -1)


def hide(memory: Tensor, share: float) -> Tensor:
    """Hides depth and size of a share of the scenes, and adds a little noise."""
    import torch

    memory = memory + 0.05 * torch.randn_like(memory)
    kept = (torch.rand(len(memory), 1, 1) >= share).float()
    memory = memory.clone()
    memory[..., 15:17] *= kept
    return memory


def text_of(pool: Pool, row: int, rng: random.Random, flat: bool) -> tuple[str, str]:
    """A prompt and its answer about one scene; `flat`: about the image plane alone."""
    from tove.data.tiny_world.text import (
        IMAGE_RELATIONS,
        RELATIONS,
        ordered_caption,
        relation_caption,
        statements_of,
    )

    things = pool.things[row]
    kind = rng.random()
    if kind < 0.12:
        return CAPTION_PROMPT, ordered_caption(things)
    if kind < 0.2 and not flat:
        caption = relation_caption(things, rng)
        if caption is not None:
            return CAPTION_PROMPT, caption
    if kind < 0.35:
        return existence(things, rng)
    found = statements_of(things, 1, rng, (*IMAGE_RELATIONS, "count") if flat else RELATIONS)
    if not found:
        return existence(things, rng)
    return PROMPT.format(statement=found[0].text), "yes" if found[0].label else "no"


def existence(things: list[Thing], rng: random.Random) -> tuple[str, str]:
    """Whether a thing is there: the question that teaches where to look."""
    from tove.data.tiny_world.scene import COLOURS, SHAPES

    there = {t.name for t in things}
    absent = [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in there]
    near = [n for n in absent if any(set(n.split()) & set(t.split()) for t in there)]
    label = rng.random() < 0.5 and bool(there)
    name = rng.choice(sorted(there) if label else near or absent)
    article = "an" if name[0] in "aeiou" else "a"
    return PROMPT.format(statement=f"there is {article} {name}"), "yes" if label else "no"


def encode(
    tokenizer: PreTrainedTokenizerFast, texts: list[tuple[str, str]]
) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] and labels [B, T] (-100 where nothing is asked)."""
    import torch

    vocabulary = tokenizer.get_vocab()
    rows, labels = [], []
    for prompt, answer in texts:
        p, a = ([vocabulary[w] for w in t.replace(",", " ,").split()] for t in (prompt, answer))
        a.append(tokenizer.eos_token_id)
        rows.append([tokenizer.bos_token_id, *p, *a])
        labels.append([-100] * (1 + len(p)) + a)
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    targets = torch.full((len(rows), width), -100)
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        targets[i, : len(label)] = torch.tensor(label)
    return ids, targets


def text_loss(logits: Tensor, ids: Tensor, told: Tensor, pad: int) -> Tensor:
    """Cross-entropy of every token of what is true, the prompt's too, a mean over all texts.

    To say what could stand left of the red ball teaches more than a yes or a no.
    """
    from torch.nn import functional as F

    loss = F.cross_entropy(
        logits[:, :-1].transpose(1, 2), ids[:, 1:], ignore_index=pad, reduction="none"
    )
    return ((loss * told[:, None]).sum(1) / (ids[:, 1:] != pad).sum(1)).mean()


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the next token, a mean over each text and then over the batch."""
    from torch.nn import functional as F

    loss = F.cross_entropy(
        logits[:, :-1].transpose(1, 2), targets[:, 1:], ignore_index=-100, reduction="none"
    )
    return (loss.sum(1) / (targets[:, 1:] >= 0).sum(1)).mean()


def accuracy_by_relation(
    model: nn.Module,
    memory_of: Callable[[Tensor], Tensor],
    pool: Pool,
    tokenizer: PreTrainedTokenizerFast,
    first: int,
) -> dict[str, float]:
    """Share of statements about unseen scenes told right from wrong."""
    import torch

    from tove.data.tiny_world.rendered import seeded
    from tove.data.tiny_world.text import statements_of

    yes, no = (tokenizer(w).input_ids[0] for w in ("yes", "no"))
    hits: dict[str, list[bool]] = {}
    with torch.inference_mode():
        for rows in torch.arange(first, len(pool)).split(250):
            memory = memory_of(rows)
            for salt in range(4):
                items = [
                    (i, s)
                    for i, r in enumerate(rows.tolist())
                    for s in statements_of(pool.things[r], 1, seeded(7, r, salt))
                ]
                ids = [
                    [tokenizer.bos_token_id, *tokenizer(PROMPT.format(statement=s.text)).input_ids]
                    for _, s in items
                ]
                last = torch.tensor([len(x) - 1 for x in ids])
                width = max(map(len, ids))
                pad = tokenizer.pad_token_id
                padded = torch.tensor([x + [pad] * (width - len(x)) for x in ids])
                chosen = memory[torch.tensor([i for i, _ in items])]
                logits = model(input_ids=padded, encoder_hidden_states=chosen).logits
                logits = logits[torch.arange(len(ids)), last]
                guess = (logits[:, yes] > logits[:, no]).tolist()
                for (_, s), g in zip(items, guess, strict=True):
                    hits.setdefault(s.relation, []).append(g == s.label)
    result = {k: round(sum(v) / len(v), 3) for k, v in sorted(hits.items())}
    every = [h for v in hits.values() for h in v]
    return {"all": round(sum(every) / len(every), 3)} | result


def object_symbols(pool: Pool, rows: Tensor) -> Tensor:
    """[B, 5, SYMBOLS]: the same description, one vector an object instead of one a token.

    Reading five vectors is a thirteenth of the work, and what is learned carries over.
    """
    import torch
    from torch.nn import functional as F

    boxes = pool.boxes[rows]
    seen = (boxes[..., 2:] > boxes[..., :2]).all(-1, keepdim=True).float()
    content = [
        F.one_hot(pool.colour[rows], 7).float(),
        F.one_hot(pool.shape[rows], 3).float(),
        4 * (boxes - 0.5),
        3 * (pool.centre_depth[rows].log()[..., None] - 1.6),
        2 * (pool.size[rows].log()[..., None] + 0.5),
        torch.zeros(len(rows), boxes.shape[1], 2),
        2 * (boxes[..., :2] + boxes[..., 2:] - 1),
    ]
    return torch.cat([seen, *(c * seen for c in content)], -1)


def write_texts(
    pool: Pool, count: int, each: int, seed: int, flat: bool = False
) -> tuple[Tensor, Tensor]:
    """Token ids and labels [count, each, T] of `each` texts about each of the first scenes."""
    from tove.data.tiny_world.rendered import seeded
    from tove.data.tiny_world.tokenizer import tiny_tokenizer

    texts = [
        text_of(pool, row, seeded(seed, row, salt), flat)
        for row in range(count)
        for salt in range(each)
    ]
    ids, labels = encode(tiny_tokenizer(), texts)
    return ids.reshape(count, each, -1), labels.reshape(count, each, -1)


def train_lm(pool: Pool, args: argparse.Namespace) -> tuple[Path, dict]:
    """Language over symbols: three quarters of the steps on objects, the rest on tokens."""
    import torch
    from torch import nn
    from transformers import GPT2Config, GPT2LMHeadModel

    from tove.data.tiny_world.rendered import batches
    from tove.data.tiny_world.tokenizer import tiny_tokenizer

    steps, batch, each = args.steps, args.batch, 6
    tokenizer = tiny_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=96, n_layer=3, n_head=4,
        add_cross_attention=True, initializer_range=0.1, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    reader = nn.Sequential(nn.Linear(SYMBOLS, 192), nn.GELU(), nn.Linear(192, 96))
    held_out, no = len(pool) - 1000, tokenizer.get_vocab()["no"]
    ids, labels = write_texts(pool, held_out, each, args.seed)

    def known(rows: Tensor) -> Tensor:
        return reader(symbols(pool, rows))

    def unknown(rows: Tensor) -> Tensor:
        return reader(hide(symbols(pool, rows), 1.0))

    trainer = Trainer([model, reader], steps, lr=2e-3)
    for step, rows in enumerate(batches(held_out, batch, steps, args.seed)):
        of_objects = step < 0.75 * steps
        chosen = slice(0, each) if of_objects else slice(0, each // 2)
        memory = (object_symbols if of_objects else symbols)(pool, rows)
        memory = reader(hide(memory, 0.25))
        x, y = ids[rows, chosen].flatten(0, 1), labels[rows, chosen].flatten(0, 1)
        length = (x != tokenizer.pad_token_id).sum(1)
        owner = torch.arange(len(x)) // (len(x) // len(rows))
        loss = torch.zeros(())
        for short in (True, False):  # captions are twice as long as statements: no padding to them
            picked = ((length <= SHORT) == short).nonzero()[:, 0]
            if not len(picked):
                continue
            width = int(length[picked].max())
            some, wanted = x[picked, :width], y[picked, :width]
            logits = model(input_ids=some, encoder_hidden_states=memory[owner[picked]]).logits
            told = (wanted != no).all(1)
            sentences = text_loss(logits, some, told, tokenizer.pad_token_id)
            share = len(picked) / len(x)
            loss = loss + share * (token_loss(logits, wanted) + sentences)
        trainer.step(loss)
        if (step + 1) % 400 == 0:
            with torch.no_grad():
                scores = accuracy_by_relation(
                    model,
                    lambda r: reader(object_symbols(pool, r)),
                    pool,
                    tokenizer,
                    len(pool) - 250,
                )
            print(scores, flush=True)
    model.eval()
    out = args.out / "tiny_lm"
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out / "model.safetensors", {
        "steps": steps,
        "batch": batch,
        "texts_a_scene": each,
        "accuracy_given_symbols": accuracy_by_relation(model, known, pool, tokenizer, held_out),
        "accuracy_without_depth_and_size": accuracy_by_relation(
            model, unknown, pool, tokenizer, held_out
        ),
    }


def train_align(pool: Pool, args: argparse.Namespace) -> tuple[Path, dict]:
    """P_clip from captions and flat statements: the language model and the CLIP stay frozen."""
    import torch
    from safetensors.torch import save_file
    from torch import nn
    from transformers import AutoTokenizer, CLIPVisionModel, GPT2LMHeadModel

    from tove.data.tiny_world.rendered import batches

    steps, batch, each, seen = args.steps, args.batch, 4, 20_000
    clip = CLIPVisionModel.from_pretrained(args.out / "tiny_clip").eval().requires_grad_(False)
    model = GPT2LMHeadModel.from_pretrained(args.out / "tiny_lm").eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(args.out / "tiny_lm")
    first, shared = nn.Linear(96, 192), nn.Linear(192, 96)
    ids, labels = write_texts(pool, seen, each, args.seed + 1, flat=True)

    def clip_tokens(rows: Tensor) -> Tensor:
        with torch.no_grad():
            return clip(pixel_values=normalised(pool.images[rows])).last_hidden_state[:, 1:]

    tokens = torch.cat([clip_tokens(r).half() for r in torch.arange(seen).split(256)])
    # CLIP's channels differ in mean and scale; start as if they did not.
    sample = tokens[:500].float().flatten(0, 1)
    with torch.no_grad():
        first.weight.copy_(first.weight / sample.std(0))
        first.bias.copy_(first.bias - first.weight @ sample.mean(0))
    trainer = Trainer([first, shared], steps, lr=3e-3)
    for step, rows in enumerate(batches(seen, batch, steps, args.seed + 1)):
        memory = shared(nn.functional.gelu(first(tokens[rows].float())))
        x, y = ids[rows].flatten(0, 1), labels[rows].flatten(0, 1)
        width = int((x != tokenizer.pad_token_id).sum(1).max())
        x, y = x[:, :width], y[:, :width]
        logits = model(input_ids=x, encoder_hidden_states=memory.repeat_interleave(each, 0)).logits
        trainer.step(token_loss(logits, y))
        if (step + 1) % 300 == 0:
            print(
                score_alignment(model, first, shared, clip_tokens, pool, tokenizer, 250), flush=True
            )
    path = args.out / "tiny_align.safetensors"
    state = {f"projector.first.clip.{k}": v for k, v in first.state_dict().items()}
    state |= {f"projector.shared.{k}": v for k, v in shared.state_dict().items()}
    save_file(state, path)
    return path, {
        "steps": steps,
        "batch": batch,
        "texts_a_scene": each,
        "distinct_images": seen,
        "loss": round(trainer.mean, 4),
        "statement_accuracy": score_alignment(
            model, first, shared, clip_tokens, pool, tokenizer, 1000
        ),
    }


def score_alignment(
    model: nn.Module,
    first: nn.Module,
    shared: nn.Module,
    clip_tokens: Callable[[Tensor], Tensor],
    pool: Pool,
    tokenizer: PreTrainedTokenizerFast,
    count: int,
) -> dict[str, float]:
    """Accuracy per relation with P_clip's memory, on the pool's last scenes."""
    from torch.nn.functional import gelu

    def memory_of(rows: Tensor) -> Tensor:
        return shared(gelu(first(clip_tokens(rows))))

    return accuracy_by_relation(model, memory_of, pool, tokenizer, len(pool) - count)


def main() -> None:
    """Trains one part and writes it with its card."""
    args = parse_arguments()
    import torch

    sys.path[:0] = [str(ROOT), str(ROOT / "core"), str(ROOT / "expert_plugins")]
    torch.manual_seed(args.seed)
    pool = load_pool(args.pool, args.scenes)
    start = time.time()
    path, score = (train_lm if args.task == "lm" else train_align)(pool, args)
    card = {
        "name": f"tiny_{args.task}",
        "seed": args.seed,
        "data": f"{len(pool)} rendered scenes, stream 0",
        "licence": "Apache-2.0",
        "minutes": round((time.time() - start) / 60, 1),
        "score": score,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size_mb": round(path.stat().st_size / 1e6, 2),
    }
    card_path = path.parent / "card.json" if args.task == "lm" else path.with_suffix(".json")
    card_path.write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
