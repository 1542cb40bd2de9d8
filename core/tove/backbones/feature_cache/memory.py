"""Frozen networks give the same tokens for the same view: keep them instead of recomputing.

For views without random geometry only. The store lies in CPU memory, holds one entry per
(source, image id), and has a budget in bytes; once that is spent, what is not stored is computed.

Shapes: B batch, M tokens, D width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["TokenCache"]


class TokenCache:
    """An in-memory store of frozen tokens.

    Args:
        max_gb: budget, in units of 10^9 bytes.
    """

    def __init__(self, max_gb: float) -> None:
        self.max_bytes = int(max_gb * 1e9)
        self.num_bytes = 0
        self._tokens: dict[tuple[str, str], Tensor] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def clear(self) -> None:
        """Forget everything."""
        self._tokens.clear()
        self.num_bytes = 0

    def get_or_compute(
        self,
        source: str,
        image_ids: Sequence[str],
        images_BCHW: Tensor,
        compute: Callable[[Tensor], Tensor],
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return tokens [B, M, D] on the images' device; the missing ones run as one batch.

        Args:
            source: name of the frozen network.
            image_ids: one unique id per image; a repeated id is computed once.
            images_BCHW: the batch, [B, 3, H, W].
            compute: maps a batch of images to their tokens.
            dtype: of the result; None is the dtype that `compute` gives.
        """
        rows: dict[str, int] = {}
        for row, image_id in enumerate(image_ids):
            if (source, image_id) not in self._tokens:
                rows.setdefault(image_id, row)
        fresh: dict[str, Tensor] = {}
        if rows:
            whole = len(rows) == len(image_ids)
            tokens_BMD = compute(images_BCHW if whole else images_BCHW[list(rows.values())])
            self._store(source, list(rows), tokens_BMD)
            if whole:
                return tokens_BMD.to(images_BCHW.device, dtype)
            fresh = dict(zip(rows, tokens_BMD, strict=True))
        device = images_BCHW.device
        if not fresh:
            stored_BMD = torch.stack([self._tokens[source, image_id] for image_id in image_ids])
            return stored_BMD.to(device, dtype, non_blocking=True)
        return torch.stack(
            [
                fresh[i] if i in fresh else self._tokens[source, i].to(device, non_blocking=True)
                for i in image_ids
            ]
        ).to(device, dtype)

    def _store(self, source: str, image_ids: Sequence[str], tokens_BMD: Tensor) -> None:
        """Keep as many of the rows as the budget allows."""
        row_bytes = tokens_BMD[0].numel() * tokens_BMD.element_size()
        room = (self.max_bytes - self.num_bytes) // max(1, row_bytes)
        kept = list(image_ids)[: max(0, room)]
        if not kept:
            return
        # A row that is a view would keep the whole batch alive, hence the clone.
        for image_id, tokens_MD in zip(kept, tokens_BMD[: len(kept)].detach().cpu(), strict=True):
            self._tokens[source, image_id] = tokens_MD.clone()
        self.num_bytes += row_bytes * len(kept)
