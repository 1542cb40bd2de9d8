"""Trains the tiny world's encoders: the CLIP and the four experts that are shipped.

    python scripts/train_tiny_encoders.py clip|depth|segmentation|detection|dino [--steps N]

Each run renders its scenes (stream 0, which no split of the demo uses), trains, scores on unseen
scenes, and writes the weights (safetensors) with a card: seed, data, minutes, score.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tove.data.tiny_world.rendered import Pool

ROOT = Path(__file__).resolve().parents[1]
# Steps and images a step that the shipped weights had, as their cards say.
SHIPPED = {
    "clip": (2200, 64),
    "depth": (3500, 48),
    "segmentation": (2000, 48),
    "detection": (2500, 48),
    "dino": (1500, 40),
}


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=SHIPPED)
    parser.add_argument("--steps", type=int, help="training steps; else the shipped weights'")
    parser.add_argument("--batch", type=int, help="images a step; else the shipped weights'")
    parser.add_argument("--scenes", type=int, default=40_000, help="distinct scenes to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=Path, default=Path("data/tiny_pool.pt"), help="cache")
    parser.add_argument("--out", type=Path, default=None)
    return with_shipped(parser.parse_args(), SHIPPED)


def with_shipped(
    args: argparse.Namespace, shipped: dict[str, tuple[int, int]]
) -> argparse.Namespace:
    """Fills in the steps and the batch that the command line leaves open."""
    steps, batch = shipped[args.task]
    args.steps, args.batch = args.steps or steps, args.batch or batch
    return args


def load_pool(path: Path, count: int) -> Pool:
    """Renders the training scenes, or reads them where an earlier run kept them."""
    import torch

    from tove.data.tiny_world.rendered import TRAIN_SEED, Pool, make_pool
    from tove.data.tiny_world.text import Thing

    if path.exists():
        torch.serialization.add_safe_globals([Pool, Thing])
        pool = torch.load(path, weights_only=True)
        if len(pool) == count:
            return pool
    pool = make_pool(TRAIN_SEED, 0, count)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(pool, path)
    return pool


def normalised(images: Tensor) -> Tensor:
    """uint8 -> float with mean .5 and deviation .5, the tiny encoders' input."""
    return images.float() / 127.5 - 1.0


class Trainer:
    """AdamW, warm-up and cosine decay over `steps`; prints the loss now and then."""

    def __init__(self, modules: list[nn.Module], steps: int, lr: float) -> None:
        import torch

        self.parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=0.05)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, lr, total_steps=steps, pct_start=0.05, cycle_momentum=False
        )
        self.start, self.steps, self.done, self.mean = time.time(), steps, 0, 0.0

    def step(self, loss: Tensor) -> None:
        """One update."""
        import torch

        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.done += 1
        self.mean = 0.98 * self.mean + 0.02 * loss.item() if self.done > 1 else loss.item()
        if self.done % 200 == 0:
            minutes = (time.time() - self.start) / 60
            print(f"{self.done}/{self.steps} loss {self.mean:.4f} {minutes:.1f} min", flush=True)


def per_cell(tokens: Tensor, channels: int) -> Tensor:
    """[B, 64, 4*channels] predictions of tokens -> [B, 256, channels], cell by cell."""
    batch = len(tokens)
    cells = tokens.reshape(batch, 8, 8, 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
    return cells.reshape(batch, 256, channels)


def depth_loss(pool: Pool, rows: Tensor, prediction: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """L1 on log depth, cells with objects weighing four times as much."""
    from tove.data.tiny_world.render import GROUND

    error = (per_cell(prediction, 1)[..., 0] - pool.depth[rows].flatten(1) + 2.0).abs()
    on_object = pool.instance[rows].flatten(1) < GROUND
    weight = 1.0 + 3.0 * on_object
    score = {"abs_log_depth_on_objects": error[on_object].mean()}
    return (error * weight).sum() / weight.sum(), score


def segmentation_loss(
    pool: Pool, rows: Tensor, prediction: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Class of every cell, and whether it and its right and lower neighbours are one object."""
    import torch
    from torch.nn import functional as F

    from tove.data.tiny_world.render import GROUND
    from tove.data.tiny_world.rendered import shape_classes

    cells = per_cell(prediction, 7)
    target = shape_classes(pool, rows)
    instance = pool.instance[rows].long()
    weight = torch.tensor([2.0, 2.0, 2.0, 1.0, 1.0])
    loss = F.cross_entropy(cells[..., :5].transpose(1, 2), target, weight=weight)
    edge = cells[..., 5:].reshape(-1, 16, 16, 2)
    right = (instance[:, :, :-1] == instance[:, :, 1:]).float()
    lower = (instance[:, :-1] == instance[:, 1:]).float()
    loss = loss + F.binary_cross_entropy_with_logits(edge[:, :, :-1, 0], right)
    loss = loss + F.binary_cross_entropy_with_logits(edge[:, :-1, :, 1], lower)
    hit = cells[..., :5].argmax(-1) == target
    return loss, {"cell_accuracy_on_objects": hit[instance.flatten(1) < GROUND].float().mean()}


def detection_loss(
    pool: Pool, rows: Tensor, prediction: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Objectness, box (relative to the cell) and class of the object in every cell."""
    import torch
    from torch.nn import functional as F

    from tove.data.tiny_world.render import GROUND
    from tove.data.tiny_world.rendered import object_of_cells

    cells = per_cell(prediction, 1 + 4 + 3 + 7)
    inside = pool.instance[rows].flatten(1) < GROUND
    loss = F.binary_cross_entropy_with_logits(cells[..., 0], inside.float())
    ticks = (torch.arange(16) + 0.5) / 16
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    here = torch.stack([x, y, x, y], -1).reshape(1, 256, 4)
    boxes = object_of_cells(pool, rows, pool.boxes)
    guess = here + cells[..., 1:5] * 0.25
    loss = loss + 10.0 * F.l1_loss(guess[inside], boxes[inside])
    shape = object_of_cells(pool, rows, pool.shape)[inside]
    colour = object_of_cells(pool, rows, pool.colour)[inside]
    loss = loss + F.cross_entropy(cells[..., 5:8][inside], shape)
    loss = loss + 0.3 * F.cross_entropy(cells[..., 8:][inside], colour)
    low = torch.maximum(guess[..., :2], boxes[..., :2])
    high = torch.minimum(guess[..., 2:], boxes[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (guess[..., 2:] - guess[..., :2]).prod(-1)
    return loss, {"mean_iou": (both / (area - both).clamp(min=1e-6))[inside].mean()}


def train_supervised(task: str, pool: Pool, args: argparse.Namespace) -> tuple[nn.Module, dict]:
    """Trains the depth, segmentation or detection expert."""
    import torch
    from torch import nn

    from tove.data.tiny_world.rendered import batches
    from tove_experts.tiny import TinyExpert

    outputs, criterion = {
        "depth": (4, depth_loss),
        "segmentation": (28, segmentation_loss),
        "detection": (60, detection_loss),
    }[task]
    steps, batch = args.steps, args.batch
    trunk, head = TinyExpert(), nn.Linear(64, outputs)
    trainer = Trainer([trunk, head], steps, lr=2e-3)
    held_out = len(pool) - 1000
    for rows in batches(held_out, batch, steps, args.seed):
        loss, _ = criterion(pool, rows, head(trunk(normalised(pool.images[rows]))))
        trainer.step(loss)
    with torch.inference_mode():
        rows = torch.arange(held_out, len(pool))
        loss, score = criterion(pool, rows, head(trunk(normalised(pool.images[rows]))))
    return trunk, {"steps": steps, "batch": batch, "val_loss": loss.item()} | {
        k: round(v.item(), 4) for k, v in score.items()
    }


def random_views(images: Tensor, low: float, high: float, side: int) -> tuple[Tensor, Tensor]:
    """Random square crops (area share low..high), flips and colour changes, batched.

    Returns:
        views [B, 3, side, side] and the crops [B, 4] (left, top, size, flip) in 0..1.
    """
    import torch
    from torch.nn import functional as F

    batch = len(images)
    size = (torch.rand(batch) * (high - low) + low).sqrt()
    left, top = torch.rand(2, batch) * (1 - size)
    flip = (torch.rand(batch) < 0.5).float()
    ticks = (torch.arange(side) + 0.5) / side
    x = left[:, None] + size[:, None] * torch.where(flip[:, None] > 0, 1 - ticks, ticks)
    y = top[:, None] + size[:, None] * ticks
    grid = torch.stack([x[:, None, :].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1)
    views = F.grid_sample(images, grid * 2 - 1, mode="bilinear", align_corners=False)
    gain = 1 + 0.4 * (torch.rand(batch, 3, 1, 1) - 0.5)
    gain = gain * (1 + 0.4 * (torch.rand(batch, 1, 1, 1) - 0.5))
    offset = 0.2 * (torch.rand(batch, 1, 1, 1) - 0.5)
    return views * gain + offset, torch.stack([left, top, size, flip], -1)


def train_dino(pool: Pool, args: argparse.Namespace) -> tuple[nn.Module, dict]:
    """Self-distillation with masked tokens and local crops (DINO, iBOT), no labels.

    The student sees two global views with a third of their tokens masked, and a small crop; it
    predicts the moving-average teacher's centred, sharpened assignment of the other view and of
    each masked token.
    """
    import copy

    import torch
    from torch import nn
    from torch.nn import functional as F

    from tove.data.tiny_world.rendered import batches
    from tove_experts.tiny import TinyExpert

    steps, batch = args.steps, args.batch

    def head() -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 256),
            nn.GELU(),
            nn.Linear(256, 64),
            L2Norm(),
            nn.Linear(64, 256, bias=False),
        )

    class L2Norm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(x, dim=-1)

    trunk = TinyExpert()
    student = nn.ModuleDict({"trunk": trunk, "image": head(), "token": head()})
    mask_token = nn.Parameter(torch.zeros(64))
    teacher = copy.deepcopy(student).requires_grad_(False)
    trainer = Trainer([student, nn.ParameterList([mask_token])], steps, lr=1.5e-3)
    centre = {"image": torch.zeros(256), "token": torch.zeros(256)}

    def student_masked(images: Tensor, mask: Tensor) -> Tensor:
        tokens = trunk.stem(images).flatten(2).transpose(1, 2)
        tokens = torch.where(mask[..., None], mask_token, tokens) + trunk.position
        for block in trunk.blocks:
            tokens = block(tokens)
        return trunk.norm(tokens)

    def targets(name: str, features: Tensor) -> Tensor:
        logits = teacher[name](features)
        result = ((logits - centre[name]) / 0.05).softmax(-1)
        centre[name].lerp_(logits.reshape(-1, 256).mean(0), 0.1)
        return result

    def cross(prediction: Tensor, target: Tensor) -> Tensor:
        return -(target * (prediction / 0.1).log_softmax(-1)).sum(-1)

    for step, rows in enumerate(batches(len(pool) - 1000, batch, steps, args.seed)):
        images = normalised(pool.images[rows])
        views = torch.cat([random_views(images, 0.5, 1.0, 64)[0] for _ in range(2)])
        small = random_views(images, 0.15, 0.4, 64)[0]
        with torch.no_grad():
            seen = teacher["trunk"](views)
            image_target = targets("image", seen.mean(1))
            token_target = targets("token", seen)
        mask = torch.rand(len(views), 64) < 0.35
        tokens = student_masked(views, mask)
        image_logits = student["image"](tokens.mean(1))
        loss = cross(image_logits, image_target.roll(batch, 0)).mean()
        local = student["image"](student["trunk"](small).mean(1))
        loss = loss + cross(local, image_target[:batch]).mean()
        loss = loss + 2 * cross(student["token"](tokens[mask]), token_target[mask]).mean()
        trainer.step(loss)
        with torch.no_grad():
            momentum = 0.99 + 0.009 * step / steps
            for mean, value in zip(teacher.parameters(), student.parameters(), strict=True):
                mean.lerp_(value, 1 - momentum)
    return teacher["trunk"], {"steps": steps, "batch": batch, "train_loss": round(trainer.mean, 4)}


def probe(trunk: nn.Module, pool: Pool) -> dict[str, float]:
    """Linear probes on tokens of unseen scenes, averaged over an object, for the count over all.

    Returns:
        How often they tell which of two objects is closer, bigger, more to the left, wider in the
        image; how often an object's shape and colour; how often how many objects are in view.
    """
    import torch
    from torch.nn import functional as F

    from tove.data.tiny_world.scene import MAX_OBJECTS

    rows = torch.arange(len(pool) - 4000, len(pool))
    with torch.inference_mode():
        tokens = torch.cat([trunk(normalised(pool.images[r])) for r in rows.split(256)])
    fill = F.one_hot(pool.instance[rows].long(), MAX_OBJECTS + 2).float()[..., :MAX_OBJECTS]
    fill = fill.reshape(-1, 8, 2, 8, 2, MAX_OBJECTS).mean((2, 4)).reshape(len(rows), 64, -1)
    seen = fill.sum(1) > 1.0
    mean = torch.einsum("bnd,bno->bod", tokens, fill) / fill.sum(1).clamp(min=1e-3)[..., None]
    scene = torch.arange(len(rows))[:, None].expand(-1, MAX_OBJECTS)[seen]
    x, depth = mean[seen], pool.centre_depth[rows][seen].log()
    size = pool.size[rows][seen].log()
    boxes = pool.boxes[rows][seen]
    train = scene < 3000

    def regress(x: Tensor, y: Tensor, train: Tensor) -> Tensor:
        x = (x - x[train].mean(0)) / x[train].std(0).clamp(min=1e-4)
        x = torch.cat([x, torch.ones(len(x), 1)], -1)
        eye = 10.0 * torch.eye(x.shape[1])
        return x @ torch.linalg.solve(x[train].T @ x[train] + eye, x[train].T @ y[train])

    def order(y: Tensor, margin: float) -> float:
        guess, held = regress(x, y[:, None], train)[:, 0], ~train
        i, j = torch.triu_indices(int(held.sum()), int(held.sum()), 1)
        s, yh, gh = scene[held], y[held], guess[held]
        ok = (s[i] == s[j]) & ((yh[i] - yh[j]).abs() > margin)
        return ((yh[i] > yh[j]) == (gh[i] > gh[j]))[ok].float().mean().item()

    def classify(x: Tensor, labels: Tensor, classes: int, train: Tensor) -> float:
        guess = regress(x, F.one_hot(labels, classes).float(), train).argmax(-1)
        return (guess == labels)[~train].float().mean().item()

    scores = {
        "closer": order(depth, 0.14),
        "bigger": order(size, 0.18),
        "left": order((boxes[:, 0] + boxes[:, 2]) / 2, 0.1),
        "wider": order(boxes[:, 2] - boxes[:, 0], 0.06),
        "shape": classify(x, pool.shape[rows][seen], 3, train),
        "colour": classify(x, pool.colour[rows][seen], 7, train),
        "count": classify(
            tokens.mean(1), seen.sum(1), MAX_OBJECTS + 1, torch.arange(len(rows)) < 3000
        ),
    }
    return {k: round(v, 3) for k, v in scores.items()}


def grid_waves(side: int, width: int) -> Tensor:
    """[side*side, width] sines and cosines of a grid's columns and rows."""
    import torch

    ticks = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    speed = torch.pi / 2 * torch.linspace(1, 8, width // 4)
    x, y = x.reshape(-1, 1) * speed, y.reshape(-1, 1) * speed
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], -1)


def train_clip(pool: Pool, args: argparse.Namespace, out: Path) -> tuple[nn.Module, dict]:
    """Contrastive training on captions without place; half the captions are hard negatives."""
    import torch
    from torch.nn import functional as F
    from transformers import CLIPConfig, CLIPModel

    from tove.data.tiny_world.rendered import batches, seeded
    from tove.data.tiny_world.text import bag_caption
    from tove.data.tiny_world.tokenizer import tiny_tokenizer

    steps, batch = args.steps, args.batch
    tokenizer = tiny_tokenizer(marks_ends=True)
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        projection_dim=64,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = dict(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        hidden_act="gelu",
        image_size=64,
        patch_size=8,
        projection_dim=64,
    )
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))
    # Captions without place give no reason to keep the place of a token, which a large CLIP's
    # tokens carry all the same: so it is there from the start, as waves over the grid.
    with torch.no_grad():
        position = model.vision_model.embeddings.position_embedding.weight
        position[1:] += 0.25 * grid_waves(8, position.shape[1])
    trainer = Trainer([model], steps, lr=1.5e-3)

    def encode(captions: list[str]) -> dict[str, Tensor]:
        return tokenizer(captions, return_tensors="pt", padding=True)

    def logits_of(rows: Tensor, salt: int) -> Tensor:
        rngs = [seeded(args.seed, int(r), salt) for r in rows]
        things = [pool.things[int(r)] for r in rows]
        captions = [bag_caption(t, g) for t, g in zip(things, rngs, strict=True)]
        captions += [bag_caption(_other_shapes(t, g), g) for t, g in zip(things, rngs, strict=True)]
        # get_image_features gives other things in transformers 4 and 5; the towers do not.
        seen = model.vision_model(pixel_values=normalised(pool.images[rows])).pooler_output
        read = model.text_model(**encode(captions)).pooler_output
        images, texts = model.visual_projection(seen), model.text_projection(read)
        scale = model.logit_scale.exp().clamp(max=50)
        return scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T

    for step, rows in enumerate(batches(len(pool) - 4000, batch, steps, args.seed)):
        logits = logits_of(rows, step)
        target = torch.arange(batch)
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :batch].T, target)
        trainer.step(loss / 2)
    model.eval()
    with torch.inference_mode():
        hits = [
            (logits_of(r, -1).argmax(-1) == torch.arange(len(r))).float().mean().item()
            for r in torch.arange(len(pool) - 4000, len(pool)).split(100)
        ]
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")
    score = {"steps": steps, "batch": batch, "retrieval_of_200_captions": sum(hits) / len(hits)}

    class PatchTokens(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return model.vision_model(pixel_values=images).last_hidden_state[:, 1:]

    return PatchTokens(), score


PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 64},
    "do_center_crop": True, "crop_size": {"height": 64, "width": 64}, "do_convert_rgb": True,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 3,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


def _other_shapes(things: list, rng: object) -> list:
    """The same colours with at least one shape changed: a hard negative."""
    import dataclasses
    import random

    from tove.data.tiny_world.scene import SHAPES

    assert isinstance(rng, random.Random)
    if not things:
        return things
    changed = rng.randrange(len(things))
    return [
        dataclasses.replace(t, shape=rng.choice([s for s in SHAPES if s != t.shape]))
        if i == changed
        else t
        for i, t in enumerate(things)
    ]


def main() -> None:
    """Trains one encoder and writes it with its card."""
    args = parse_arguments()
    import torch
    from safetensors.torch import save_file

    sys.path[:0] = [str(ROOT), str(ROOT / "core"), str(ROOT / "expert_plugins")]
    torch.manual_seed(args.seed)
    pool = load_pool(args.pool, args.scenes)
    start = time.time()
    card: dict[str, object] = {"name": f"tiny_{args.task}", "seed": args.seed}
    card |= {"data": f"{len(pool)} rendered scenes, stream 0", "licence": "Apache-2.0"}
    if args.task == "clip":
        out = args.out or ROOT / "core/tove/assets/tiny_clip"
        out.mkdir(parents=True, exist_ok=True)
        trunk, score = train_clip(pool, args, out)
        path, card_path = out / "model.safetensors", out / "card.json"
    else:
        out = args.out or ROOT / "expert_plugins/tove_experts/weights"
        out.mkdir(parents=True, exist_ok=True)
        train = train_dino if args.task == "dino" else lambda *a: train_supervised(args.task, *a)
        trunk, score = train(pool, args)
        path, card_path = out / f"tiny_{args.task}.safetensors", out / f"tiny_{args.task}.json"
        save_file(trunk.state_dict(), path)
    card["minutes"] = round((time.time() - start) / 60, 1)
    card["score"] = score
    card["probe"] = probe(trunk.eval(), pool)
    card["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    card["size_mb"] = round(path.stat().st_size / 1e6, 2)
    card_path.write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
