"""Any backbone of timm, as patch tokens.

    isotropic (ViT, EVA, BEiT, mixer):     t = norm(x_last) without prefix tokens
    hierarchical (CNN, ConvNeXt, Swin):    t = map of the last stage, row by row

For an isotropic model this is timm's `forward_features` less class and register tokens; for a
hierarchical one it is the last map of timm's `features_only`, without the layers of the
classifier's head. That is the default because every model of timm has it and its pretraining has
shaped it most: it is what the classifier, or the pooling of a contrastive model, reads. `layer`
takes an earlier block or stage as it leaves it, before any final norm. What lies above the taken
layer is dropped after loading: it would cost memory and be counted.

Shapes: B batch, H x W the image, h x w the grid, N = h * w tokens, D width.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tove_experts.hf import as_size
from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights

__all__ = [
    "DEFAULT_MODEL",
    "TimmBackbone",
    "TimmTower",
    "measure",
    "resize",
    "resolve",
]

DEFAULT_MODEL = "vit_base_patch16_224.augreg2_in21k_ft_in1k"

_LICENCES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause"}
"""Those that allow commercial use, as timm writes them, with their SPDX identifiers."""


class TimmTower(nn.Module):
    """A timm model, cut off above one of its feature maps.

    Args:
        net: A timm model with `forward_intermediates`; it is changed in place.
        layer: Index of the block or stage, from the end if negative; None for the final tokens.

    Raises:
        ValueError: The model has no such layer, or gives no maps at all.
    """

    def __init__(self, net: Any, layer: int | None) -> None:  # noqa: ANN401 - timm's are not typed
        super().__init__()
        name = type(net).__name__
        if not hasattr(net, "forward_intermediates"):
            raise ValueError(
                f"timm's {name} gives no feature maps (it has no forward_intermediates); choose "
                "another model."
            )
        num_maps = len(_reductions(net))
        layer_or_last = -1 if layer is None else layer
        if not -num_maps <= layer_or_last < num_maps:
            raise ValueError(
                f"layer is {layer}, and timm's {name} has {num_maps} of them here; give one from "
                f"{-num_maps} to {num_maps - 1}, or None for the final tokens."
            )
        self.final_norm = layer is None and len(set(_reductions(net))) == 1
        self.index = layer_or_last % num_maps  # -1 may be another map once layers are dropped
        net.prune_intermediate_layers([self.index], prune_norm=not self.final_norm, prune_head=True)
        self.net = net

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Give the map [B, D, h, w] of normalised images [B, 3, H, W]."""
        (map_BDhw,) = self.net.forward_intermediates(
            images_BCHW,
            indices=[self.index],
            norm=self.final_norm,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return map_BDhw

    def init_weights(self) -> None:
        """Do nothing: mmengine calls this on what it trains, and timm's own would start anew."""


class TimmBackbone(nn.Module):
    """A timm model as an expert.

    Args:
        spec: What this build promises, as `resolve` gave it.
        weights: A folder of timm's hub format (config.json, model.safetensors), which names its
            architecture itself, or a weights file; None draws them at random.
        model: timm's name, with or without a tag; not needed for a folder.
        layer: Index of a block or stage in place of the final tokens.
        image_size: Side, or (height, width), in pixels, in place of the pretraining's; it stands
            in the spec.
        tower: Further arguments of timm.create_model that change the architecture.

    Raises:
        ValueError: timm has no such model, or it cannot be built as asked.
    """

    def __init__(
        self,
        spec: ExpertSpec,
        weights: Path | None = None,
        model: str | None = None,
        layer: int | None = None,
        image_size: int | Sequence[int] | None = None,
        tower: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        net = _create(model, weights, tower, pretrained=weights is not None)
        resize(net, spec.image.size)
        self.tower = TimmTower(net, layer)
        self.eval()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] to tokens [B, N, D]."""
        map_BDhw: Tensor = self.tower(images_BCHW)
        return map_BDhw.flatten(2).transpose(1, 2)


def resolve(
    *,
    spec: ExpertSpec,
    weights: Path | None = None,
    model: str | None = None,
    layer: int | None = None,
    image_size: int | Sequence[int] | None = None,
    tower: Mapping[str, Any] | None = None,
) -> ExpertSpec:
    """Tell what `TimmBackbone` with the same arguments takes and gives, without building it.

    Image statistics, size and licence are those that timm keeps with the weights. Its crop is not
    used: the core shows every expert the same view.

    Raises:
        ValueError: As `TimmBackbone`, or no weights are published for the model.
    """
    if weights is not None and weights.is_file() and model is None:
        raise ValueError(
            f"A weights file alone does not tell its architecture; give `model` beside {weights}, "
            "timm's name of it, or a folder with its config.json as `weights`."
        )
    with torch.device("meta"):
        net = _create(model, weights, tower, pretrained=False)
        cfg = net.pretrained_cfg
        own = weights is None and model == spec.options.get("model")
        image = spec.image if own else _image(cfg)
        image = replace(image, size=as_size(image_size) or image.size)
        resize(net, image.size)
        tokens = measure(TimmTower(net, layer), image.size)
    place: Weights | None
    if weights is not None:
        place = Weights(source=str(weights), **_terms(cfg, f"as {weights.name} tells"))
    elif own:
        place = spec.weights
    else:
        place = None if tower else _published(model or DEFAULT_MODEL, cfg)
    return replace(spec, tokens=tokens, image=image, weights=place)


def measure(tower: nn.Module, size: tuple[int, int]) -> TokenSpec:
    """Run one image of `size` through a tower on the "meta" device: shapes without numbers."""
    with torch.no_grad():
        map_BDhw = tower.eval()(torch.empty(1, 3, *size, device="meta"))
    _, width, rows, columns = map_BDhw.shape
    return TokenSpec(width=width, grid=(rows, columns))


def resize(net: Any, size: tuple[int, int]) -> None:  # noqa: ANN401
    """Prepare a timm model for an input size: its position embeddings are interpolated.

    Raises:
        ValueError: The model takes its own size only.
    """
    cfg = net.pretrained_cfg
    if size == tuple(cfg["input_size"][1:]):
        return
    if hasattr(net, "set_input_size"):
        net.set_input_size(size)
    elif cfg.get("fixed_input_size"):
        raise ValueError(
            f"timm's {cfg['architecture']} takes images of {cfg['input_size'][1:]} only; leave "
            "image_size out, or choose another model."
        )


def _image(cfg: Mapping[str, Any]) -> ImageSpec:
    """Give the image that a model was evaluated with, as timm keeps it with the weights."""
    return ImageSpec(
        size=(cfg["input_size"][1], cfg["input_size"][2]),
        mean=_triple(cfg["mean"]),
        std=_triple(cfg["std"]),
        interpolation="bilinear" if cfg.get("interpolation") == "bilinear" else "bicubic",
    )


def _published(model: str, cfg: Mapping[str, Any]) -> Weights:
    """Say where timm publishes a model's weights.

    Raises:
        ValueError: It publishes none.
    """
    repository = cfg.get("hf_hub_id")
    if not repository:
        raise ValueError(
            f"timm publishes no weights for {model!r}; give `weights`, a file or a folder of "
            "yours, or choose a model that timm.list_pretrained() names."
        )
    file = cfg.get("hf_hub_filename") or "model.safetensors"
    terms = _terms(cfg, f"as the card of {repository} tells")
    return Weights(source=f"hub:{repository}/{file}", **terms)


def _create(
    model: str | None, weights: Path | None, tower: Mapping[str, Any] | None, pretrained: bool
) -> Any:  # noqa: ANN401
    """Build a timm model, and load its weights strictly if `pretrained`."""
    import timm

    overlay: dict[str, Any] = {}
    if weights is not None and weights.is_dir():
        _check_folder(weights, model)
        name = f"local-dir:{weights}"
    else:
        name = model or DEFAULT_MODEL
        _check_name(name)
        # Not the loader of a model's original format: the file is in timm's own.
        overlay = {"file": str(weights), "custom_load": False} if pretrained else {}
    try:
        return timm.create_model(
            name, pretrained=pretrained, pretrained_cfg_overlay=overlay or None, **(tower or {})
        )
    except (TypeError, RuntimeError) as error:
        with_weights = f" with the weights {weights}" if pretrained else ""
        raise ValueError(
            f"timm cannot build {name!r}{with_weights}: {str(error)[:500]}. Choose weights of this "
            "very model (a folder with config.json brings its own), and a `tower` that it takes."
        ) from error


def _check_folder(folder: Path, model: str | None) -> None:
    """Compare what a folder holds with the model that the config names."""
    config = folder / "config.json"
    found = json.loads(config.read_text()).get("architecture") if config.is_file() else None
    if found is None:
        raise ValueError(
            f"{config} names no architecture of timm's; point `weights` at a folder in timm's hub "
            "format (config.json, model.safetensors), at 'hub:timm/NAME', or at a weights file "
            "beside `model`."
        )
    if model is not None and model.partition(".")[0] != found:
        raise ValueError(
            f"The weights folder {folder} holds timm's {found!r}, but `model` is {model!r}; leave "
            "`model` out, or choose other weights."
        )


def _check_name(model: str) -> None:
    import timm

    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), 3)
        hint = f" Close to it: {', '.join(close)}." if close else ""
        raise ValueError(f"timm has no model {architecture!r}.{hint} See timm.list_models().")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(
            f"timm has no weights {tag!r} of {architecture!r}; it has "
            f"{', '.join(sorted(tags)) or 'none'}."
        )


def _reductions(net: Any) -> list[int]:  # noqa: ANN401
    """Give the stride of every feature map, one number a block or stage."""
    info = net.feature_info
    return [entry["reduction"] for entry in getattr(info, "info", info)]


def _terms(cfg: Mapping[str, Any], trained_on: str) -> dict[str, Any]:
    """Give what timm says about the weights' licence; of the data it keeps no field."""
    licence = str(cfg.get("license") or "unknown")
    return {
        "licence": _LICENCES.get(licence, licence),
        "trained_on": trained_on,
        "commercial_use": licence in _LICENCES,
    }


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
