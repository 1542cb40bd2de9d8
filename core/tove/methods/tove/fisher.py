"""The Fisher metric: how much the language model minds an error of its tokens, by direction.

    g    = d L_lm / d t           at  t = a t_fuse + (1 - a) v,   a ~ U(0, 1) for each view
    F    = mean over samples of  words * sum_n g_n g_n^T      L_lm being a mean over the words
    M    = (F / tr F + r I / D) / s
    d    = mean over tokens of  (p - t_fuse)^T M (p - t_fuse)

To second order the error's effect on what the language model says is a form like this (Amari's
natural metric; the labels are the data's, so that F is the empirical one). What the model is sure
of counts little. The square of a mean over words falls with their number, which `words` gives back:
otherwise captions hardly count beside yes and no. r keeps a little weight on what no text asked
about; s makes the distance of plain CLIP's tokens v from t_fuse 1.

Shapes: B samples, V views, N tokens, D language width.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tove.methods.batch import Views, view_ids
from tove.modules.collectives import global_sum
from tove.modules.device import on_device
from tove.protocols import Sample

__all__ = ["fisher_distance", "fisher_metric"]

_RIDGE = 0.2


def fisher_metric(teacher: Any, batches: Iterable[Mapping[str, Any]], seed: int = 0) -> Tensor:  # noqa: ANN401
    """Return M, [D, D], of a trained model; the same on all ranks.

    Args:
        teacher: a `VisionLanguageModel` with a projector; nothing of it trains.
        batches: of images with text, as its data preprocessor gives them; as many on each rank.
        seed: of a.
    """
    draw = torch.Generator().manual_seed(seed)
    device = next(teacher.parameters()).device
    form_DD = torch.zeros(teacher.language.width, teacher.language.width, device=device)
    error_DD, number = torch.zeros_like(form_DD), torch.zeros((), device=device)
    for batch in batches:
        samples = batch["data_samples"]
        views = Views.of(batch.get("content"), batch.get("owner"), samples)
        with torch.no_grad():
            fused = teacher.fuse(batch["images"], view_ids(samples), views)
        fused_VND, plain_VND = fused.t_fuse, fused.v
        share_V = torch.rand(len(fused_VND), generator=draw).to(device)[:, None, None]
        read_VND = (share_V * fused_VND + (1 - share_V) * plain_VND).requires_grad_(True)
        with _mean_over_samples(teacher.language):
            loss = teacher.language.loss(teacher.images_of(read_VND, samples), samples)
        if not len(read_VND):  # texts alone
            continue
        grad_VND = len(samples) * torch.autograd.grad(loss, read_VND)[0].float()
        owner_V = torch.arange(len(samples), device=device) if views is None else views.owner_V
        words_B = on_device([_words_to_say(sample) for sample in samples], device).float()
        grad_MD = (grad_VND * words_B[owner_V, None, None].sqrt()).flatten(0, 1)
        form_DD += grad_MD.T @ grad_MD
        delta_MD = (plain_VND - fused_VND).float().flatten(0, 1)
        error_DD += delta_MD.T @ delta_MD / plain_VND.shape[1]
        number += len(fused_VND)
    form_DD, error_DD, number = (global_sum(x) for x in (form_DD, error_DD, number))
    form_DD = form_DD / form_DD.trace().clamp(min=torch.finfo(form_DD.dtype).tiny)
    form_DD = form_DD + _RIDGE / len(form_DD) * torch.eye(len(form_DD), device=device)
    plain = (form_DD * error_DD).sum() / number.clamp(min=1)
    return form_DD / torch.where(plain > 0, plain, torch.ones_like(plain))


@contextmanager
def _mean_over_samples(language: Any) -> Iterator[None]:  # noqa: ANN401
    """Let each sample count alike in the loss for a while, if the language model can."""
    usual = getattr(language, "loss_mean", None)
    if usual is not None:
        language.loss_mean = "samples"
    try:
        yield
    finally:
        if usual is not None:
            language.loss_mean = usual


def _words_to_say(sample: Sample) -> int:
    turns = sample.get("conversations") or ()
    said = [turn["value"] for turn in turns if turn["from"] == "gpt"] or [sample.get("target")]
    return sum(len((text or "").split()) for text in said)


def fisher_distance(metric_DD: Tensor, prediction_BND: Tensor, target_BND: Tensor) -> Tensor:
    """Return d, a scalar; 1 is that of plain CLIP."""
    delta_BND = prediction_BND - target_BND
    return ((delta_BND @ metric_DD) * delta_BND).sum(-1).mean()
