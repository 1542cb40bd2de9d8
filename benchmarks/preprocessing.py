"""From decoded photos to normalised tensors for four experts: the shared view against processors.

    python benchmarks/preprocessing.py

Ours makes one view of an image, which is resized again where an expert wants another size, and
normalised; in uint8 as an expert's resize="uint8" does it. With transformers each expert's own
processor starts from the photo. Both give the experts' input of one batch. The sizes are those of
ToVE's experts at the paper's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import frame
from frame import Claim, Work

GOAL, GOAL_UINT8 = 1.2, 1.5
WHY = (
    "Pillow brings a photo to the view's size, a third of the time; torch's resize in uint8 takes "
    "a quarter of that, but gives other pixels, and with them other tokens"
)
INPUTS = (  # side of the input, mean, standard deviation
    (384, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    (518, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    (224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    (224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
)


def works(view: int, batch: int, divide: int = 1) -> dict[str, Work]:
    """Return each way for photos of 640 x 480.

    Args:
        view: side of the shared view.
        batch: photos.
        divide: makes the experts' inputs smaller.
    """
    import numpy as np
    import torch
    import transformers
    from PIL import Image

    from tove.backbones.preprocess import Preprocess, Resize, to_unit_range
    from tove.data.image_io import shared_view

    chance = np.random.default_rng(0)
    coarse = [chance.integers(0, 256, (12, 16, 3), np.uint8) for _ in range(batch)]
    photos = [
        Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC) for pixels in coarse
    ]
    inputs = [(side // divide, mean, std) for side, mean, std in INPUTS]

    def ours(resize: Resize) -> Work:
        own = [Preprocess((side, side), mean, std, resize=resize) for side, mean, std in inputs]

        def run() -> None:
            views = torch.stack([shared_view(photo, view) for photo in photos])
            pixels = to_unit_range(views)
            for preprocess in own:
                preprocess(pixels)

        return run

    def theirs(kind: str) -> Work:
        made = [
            getattr(transformers, kind)(
                size={"shortest_edge": side},
                crop_size={"height": side, "width": side},
                image_mean=list(mean),
                image_std=list(std),
            )
            for side, mean, std in inputs
        ]

        def run() -> None:
            for processor in made:
                processor(photos, return_tensors="pt")

        return run

    return {
        "ours": ours("float32"),
        "uint8": ours("uint8"),
        "fast": theirs("CLIPImageProcessorFast"),
        "slow": theirs("CLIPImageProcessor"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    import torch

    args = frame.parser(__doc__).parse_args(argv)
    torch.set_num_threads(1)
    rounds, claims = args.rounds or (1 if args.short else 15), []
    for view in (32,) if args.short else (224, 518):
        sizes = (view, 1, 8) if args.short else (view, 8)
        times = frame.in_turns(works(*sizes), rounds)
        fast, slow = (frame.over(times[kind], times["ours"]) for kind in ("fast", "slow"))
        claims += [
            Claim(
                f"transformers' fast processors / ours, view of {view}",
                fast,
                GOAL,
                True,
                why=f"other sizes are resized from the view in float32, over half of it; {WHY}",
            ),
            Claim(
                f"transformers' fast processors / ours in uint8, view of {view}",
                frame.over(times["fast"], times["uint8"]),
                GOAL_UINT8,
                True,
                why=WHY,
            ),
            Claim(f"transformers' slow processors / ours, view of {view}", slow),
        ]
    frame.write("preprocessing", "photos to the input of four experts", claims, args)


if __name__ == "__main__":
    main()
