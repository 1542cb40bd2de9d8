"""The scale of an expert's tokens: told rather than judged, for the core can normalise it.

Shapes: B images, N = h * w tokens, D width.
"""

from torch import Tensor

from tove_plugins.testing._registry import expert_check, fail
from tove_plugins.testing._subject import Subject, run_as_core

__all__: list[str] = []

OUTLIER = 10.0  # times the median channel's RMS


@expert_check("built")
def check_token_scale(subject: Subject) -> str:
    """Tokens far larger than other experts' train slower, and the gate drops them first.

    Told are mean, RMS and mean norm of the tokens of four images of noise, unlike in brightness and
    contrast, and the channels whose RMS is above 10 times the median channel's; with `--real` of
    the trained weights. It fails only where tokens are not finite, or where all of them are the
    same, whatever the image and the place.

    Mend: Give another layer's tokens, or those behind the network's last norm. Runs standardise by
    channel (`model.token_norm`), so a scale needs no mending.
    """
    tokens_BND = run_as_core(subject.fresh(), subject.unlike_images()).double().cpu()
    if not tokens_BND.isfinite().all():
        fail("Images of low contrast give tokens that are not finite.")
    spread_D = tokens_BND.flatten(0, 1).std(0, correction=0)
    rms = float(tokens_BND.square().mean().sqrt())
    if float(spread_D.max()) <= 1e-6 * rms:
        fail(
            f"All tokens of all images are the same (RMS {rms:.3g}): they tell nothing. Look for a "
            "layer that gives zeros, or weights that were not loaded."
        )
    return _told(tokens_BND, rms)


def _told(tokens_BND: Tensor, rms: float) -> str:
    """Say the tokens' scale, and which channels stand out."""
    norm = float(tokens_BND.norm(dim=-1).mean())
    scale = f"mean {float(tokens_BND.mean()):.3g}, RMS {rms:.3g}, mean token norm {norm:.3g}"
    rms_D = tokens_BND.square().mean((0, 1)).sqrt()
    ratio_D = rms_D / rms_D.median().clamp(min=1e-12 * rms)
    outliers = (ratio_D > OUTLIER).nonzero().flatten().tolist()
    if not outliers:
        return f"{scale}; no outlier channel."
    worst = max(outliers, key=lambda channel: float(ratio_D[channel]))
    shown = ", ".join(map(str, outliers[:5])) + (", ..." if len(outliers) > 5 else "")
    return (
        f"{scale}; of {len(rms_D)} channels {len(outliers)} ({shown}) have an RMS above "
        f"{OUTLIER:.0f} times the median channel's, channel {worst} {float(ratio_D[worst]):.3g} "
        "times."
    )
