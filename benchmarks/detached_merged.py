"""An expert that is detached, and an encoder that is merged, cost what is left of them.

python benchmarks/detached_merged.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import frame
from frame import Claim
from training_step import CONFIG

GOAL = 1.02
SLOT = "depth"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write."""
    import torch
    from mmengine.config import Config

    from tove.backbones.clip.encoder import TransformersCLIP
    from tove.registry import MODELS

    args = frame.parser(__doc__).parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds = args.rounds or (1 if args.short else 31)
    settings = Config.fromfile(str(CONFIG)).model
    settings.token_cache = settings.init_from = None
    model: Any = MODELS.build(settings).eval()
    model.hub.detach(SLOT)
    shared = {"encoder": model.encoder, "language": model.language}
    without: Any = MODELS.build({**settings, **shared, "detached": [SLOT]}).eval()
    images = torch.rand(1 if args.short else 8, 3, 64, 64)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        exported = Path(folder) / "export"
        model.encoder.export(exported, formats=("transformers",))
        merged = TransformersCLIP(str(exported), layer=model.encoder.layer)
        works = {
            "detached": lambda: model(images),
            "built without": lambda: without(images),
            "merged": lambda: merged(images),
            "plain": lambda: model.encoder(images),
        }
        times = frame.in_turns(works, rounds)
    claims = [
        Claim(
            "detached / built without", frame.over(times["detached"], times["built without"]), GOAL
        ),
        Claim("merged / plain encoder", frame.over(times["merged"], times["plain"]), GOAL),
    ]
    title = "an expert detached over one never built, a merged encoder over a plain one"
    frame.write("detached_merged", title, claims, args)


if __name__ == "__main__":
    main()
