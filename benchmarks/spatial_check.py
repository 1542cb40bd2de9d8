"""How often the spatial check is wrong: right experts it fails, faulty ones it passes or misnames.

Every network is random, and anew for every seed; a seed draws the check's cells and noise as well.

    python benchmarks/spatial_check.py --seeds 20 [--only vit resnet]
"""

import argparse
import itertools
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove_plugins import ExpertSpec, ImageSpec, TokenSpec
from tove_plugins.testing import CheckResult, _spatial, _subject, check_expert

SIZE, GRID = 128, 8
IMAGE = ImageSpec((SIZE, SIZE), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Timm(nn.Module):
    """A network of timm at stride 16: its feature map, or its patch tokens."""

    def __init__(self, name: str, *, as_map: bool = False, **options: object) -> None:
        super().__init__()
        import timm

        self.model = timm.create_model(name, features_only=as_map, **options)
        self.as_map = as_map

    def forward(self, images: Tensor) -> Tensor:
        """Give tokens."""
        if not self.as_map:
            return self.model.forward_features(images)[:, self.model.num_prefix_tokens :]
        info = self.model.feature_info
        level = max(i for i, stride in enumerate(info.reduction()) if stride == SIZE // GRID)
        features = self.model(images)[level]
        if features.shape[1] != info.channels()[level]:  # Swin gives channels last
            features = features.permute(0, 3, 1, 2)
        return features.flatten(2).transpose(1, 2)


class Strided(nn.Module):
    """Four convolutions of stride 2."""

    def __init__(self) -> None:
        super().__init__()
        sides = itertools.pairwise((3, 16, 16, 16, 32))
        self.layers = nn.Sequential(*(nn.Conv2d(a, b, 3, 2, 1) for a, b in sides))

    def forward(self, images: Tensor) -> Tensor:
        """Give tokens."""
        return self.layers(images).flatten(2).transpose(1, 2)


class Dilated(nn.Module):
    """Patches and seven dilated convolutions without residuals: each token sees the whole image."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, SIZE // GRID, SIZE // GRID)]
        for by in (1, 2, 4, 8, 4, 2, 1):
            convolution = nn.Conv2d(32, 32, 3, padding=by, dilation=by)
            layers += [convolution, nn.BatchNorm2d(32), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Give tokens."""
        return as_tokens(self.layers(images))


class Pyramid(nn.Module):
    """Features at stride 16 to which those at stride 32 are added, as a feature pyramid does."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = Strided()
        self.coarse = nn.Conv2d(32, 32, 3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Give tokens."""
        fine = self.fine.layers(images)
        both = fine + F.interpolate(self.coarse(fine.relu()), scale_factor=2)
        return both.flatten(2).transpose(1, 2)


class PostNorm(nn.Module):
    """Patches and post-norm attention, the norm after the residual as in DETR."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 16, 16)
        self.position = nn.Parameter(0.5 * torch.randn(1, GRID**2, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Tensor:
        """Give tokens."""
        return self.layers(self.patch(images).flatten(2).transpose(1, 2) + self.position)


class Detr(nn.Module):
    """DETR's encoder over a small ResNet."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import DetrConfig, DetrModel, ResNetConfig

        backbone = ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 16, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage3"],
        )
        self.model = DetrModel(
            DetrConfig(
                use_timm_backbone=False,
                use_pretrained_backbone=False,
                backbone=None,
                backbone_config=backbone,
                d_model=64,
                encoder_layers=3,
                encoder_attention_heads=2,
                encoder_ffn_dim=64,
                decoder_layers=1,
                decoder_attention_heads=2,
                decoder_ffn_dim=32,
                num_queries=4,
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Give tokens."""
        return self.model(images).encoder_last_hidden_state


def timm_vit(name: str, **options: object) -> Callable[[], nn.Module]:
    """Give a maker of a transformer of timm for this size."""
    return lambda: Timm(name, img_size=SIZE, **options)


SWIN = {"depths": (1, 1, 2, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8), "window_size": 4}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "strided": Strided,
    "dilated": Dilated,
    "pyramid": Pyramid,
    "resnet": lambda: Timm("resnet18", as_map=True),
    "convnext": lambda: Timm("convnext_atto", as_map=True),
    "mobilenet": lambda: Timm("mobilenetv3_small_050", as_map=True),
    "swin": lambda: Timm("swin_tiny_patch4_window7_224", as_map=True, img_size=SIZE, **SWIN),
    "vit": timm_vit("vit_tiny_patch16_224", depth=6, embed_dim=96),
    "beit": timm_vit("beit_base_patch16_224", depth=4, embed_dim=96, num_heads=3),
    "eva02": timm_vit("eva02_tiny_patch14_224", depth=4, patch_size=16),
    "postnorm 2": lambda: PostNorm(2),
    "postnorm 6": lambda: PostNorm(6),
    "detr": Detr,
}


def resize(images: Tensor) -> Tensor:
    """Resize to the network's size."""
    return F.interpolate(images, size=(SIZE, SIZE), mode="bicubic", antialias=True)


def crop(images: Tensor, keep: float) -> Tensor:
    """Cut out the middle."""
    cut = round(SIZE * (1 - keep) / 2)
    return resize(images[..., cut : SIZE - cut, cut : SIZE - cut])


def pad(images: Tensor, by: float) -> Tensor:
    """Pad all round to `by` times the side."""
    return resize(F.pad(images, (round(SIZE * (by - 1) / 2),) * 4))


def as_map(tokens: Tensor) -> Tensor:
    """Give tokens [B, N, D] as a map [B, D, h, w]."""
    return tokens.transpose(1, 2).unflatten(2, (GRID, GRID))


def as_tokens(features: Tensor) -> Tensor:
    """Flatten a map rightly."""
    return features.flatten(2).transpose(1, 2)


def last_row_doubled(tokens: Tensor) -> Tensor:
    """Lose the last row, and give the one before twice."""
    rows = as_map(tokens)
    return as_tokens(torch.cat([rows[:, :, :-1], rows[:, :, -2:-1]], 2))


def last_column_lost(tokens: Tensor) -> Tensor:
    """Lose the last column, and stretch the others."""
    kept = as_map(tokens)[..., :-1]
    return as_tokens(F.interpolate(kept, (GRID, GRID), mode="bilinear"))


def pooled(tokens: Tensor) -> Tensor:
    """Give every cell the mean of all."""
    return tokens.mean(1, keepdim=True).expand_as(tokens).clone()


def class_token_kept(tokens: Tensor) -> Tensor:
    """Put a token of the whole image first and lose the last."""
    return torch.cat([tokens.mean(1, keepdim=True), tokens[:, :-1]], 1)


Change = Callable[[Tensor], Tensor]


def same(tensor: Tensor) -> Tensor:
    """Change nothing."""
    return tensor


# name: what is done to the image, what to the tokens, words of the diagnosis
FAULTS: dict[str, tuple[Change, Change, str]] = {
    "channels-first reshaped": (same, lambda t: t.mT.reshape(t.shape), "channels-first"),
    "transposed": (same, lambda t: as_tokens(as_map(t).mT), "transposed"),
    "rows flipped": (lambda x: x.flip(2), same, "rows are flipped"),
    "columns flipped": (lambda x: x.flip(3), same, "columns are flipped"),
    "turned by half": (same, lambda t: t.flip(1), "turned by half"),
    "turned by 90 degrees": (same, lambda t: as_tokens(as_map(t).rot90(1, (2, 3))), "90 degrees"),
    "pooled": (same, pooled, "move alike"),
    "class token as a patch": (same, class_token_kept, "one late"),
    "first patch dropped": (same, lambda t: t.roll(-1, 1), "one early"),
    "one row late": (same, lambda t: t.roll(GRID, 1), "one row late"),
    "one column late": (same, lambda t: as_tokens(as_map(t).roll(1, 3)), "one column late"),
    "last row doubled": (same, last_row_doubled, "the bottom"),
    "last column lost": (same, last_column_lost, "the right"),
    "row and column late": (same, lambda t: as_tokens(as_map(t).roll((1, 1), (2, 3))), ""),
    "crop of 3/4": (lambda x: crop(x, 0.75), same, "cropped"),
    "crop of 7/8": (lambda x: crop(x, 0.875), same, "cropped"),
    "padded to 4/3": (lambda x: pad(x, 4 / 3), same, ""),
    "padded to 3/2": (lambda x: pad(x, 1.5), same, ""),
}


class Faulty(nn.Module):
    """A network with a fault before or behind it."""

    def __init__(self, network: nn.Module, before: Change, behind: Change) -> None:
        super().__init__()
        self.network, self.before, self.behind = network, before, behind

    def forward(self, images: Tensor) -> Tensor:
        """Give tokens, in the wrong places."""
        return self.behind(self.network(self.before(images)))


def verdict(expert: nn.Module) -> CheckResult:
    """Give what the check says of an expert."""
    with torch.no_grad():
        width = expert(torch.zeros(1, 3, SIZE, SIZE)).shape[2]
    spec = ExpertSpec("bench", "test", "no:where", TokenSpec(width, (GRID, GRID)), IMAGE)
    (result,) = check_expert(expert, spec, checks=["spatial_order"], raise_on_failure=False)
    return result


@dataclass
class Counts:
    """Verdicts on a network: of itself, and by the fault that was added to it."""

    alarms: int = 0
    skips: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    unnamed: Counter[str] = field(default_factory=Counter)


def measure(name: str, seeds: int) -> Counts:
    """Count false alarms, skips, misses (skips too) and faults caught under another name."""
    counts = Counts()
    for seed in range(seeds):
        torch.manual_seed(seed)
        network = NETWORKS[name]().eval()
        _subject.SEED = _spatial.SEED = 1_000 * (seed + 1)
        outcome = verdict(network).outcome
        counts.alarms += outcome == "failed"
        counts.skips += outcome == "skipped"
        for fault, (before, behind, words) in FAULTS.items():
            said = verdict(Faulty(network, before, behind).eval())
            counts.missed[fault] += said.outcome != "failed"
            counts.unnamed[fault] += said.outcome == "failed" and words not in said.message
    return counts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), metavar="NETWORK")
    parsed = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"| network, {parsed.seeds} seeds | false alarms | skipped | misses | not named |")
    print("|---|---|---|---|---|")
    missed, unnamed = Counter[str](), Counter[str]()
    for name in parsed.only:
        found = measure(name, parsed.seeds)
        errors = f"{told(found.missed)} | {told(found.unnamed)}"
        print(f"| {name} | {found.alarms} | {found.skips} | {errors} |", flush=True)
        missed.update(found.missed)
        unnamed.update(found.unnamed)
    print(f"\n| fault, {parsed.seeds * len(parsed.only)} networks | misses | caught, not named |")
    print("|---|---|---|")
    for fault in FAULTS:
        print(f"| {fault} | {missed[fault]} | {unnamed[fault]} |")


def told(found: Counter[str]) -> str:
    """Give counts in words."""
    return ", ".join(f"{fault} {count}" for fault, count in found.items() if count) or "0"


if __name__ == "__main__":
    main()
