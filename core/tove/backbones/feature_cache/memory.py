"""The smallest form of the cache: tokens kept in CPU memory for the length of a run.

Shapes: B batch, M tokens, D width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["MemoryStore"]


class MemoryStore:
    """An in-memory store of frozen tokens, one entry per (source, image id).

    Args:
        max_gb: budget, in units of 10^9 bytes; once it is spent, what is not stored is computed.
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
        compute: Callable[[list[int]], Tensor],
        device: torch.device,
    ) -> Tensor:
        """Return tokens [B, M, D] on a device; the missing ones are computed as one batch.

        Args:
            source: tells the frozen network and the view.
            image_ids: one unique id per image; a repeated id is computed once.
            compute: gives the tokens of these rows of the batch.
            device: of the tokens.
        """
        rows: dict[str, int] = {}
        for row, image_id in enumerate(image_ids):
            if (source, image_id) not in self._tokens:
                rows.setdefault(image_id, row)
        fresh: dict[str, Tensor] = {}
        if rows:
            tokens_BMD = compute(list(rows.values()))
            self._store(source, list(rows), tokens_BMD)
            if len(rows) == len(image_ids):
                return tokens_BMD.to(device)
            fresh = dict(zip(rows, tokens_BMD, strict=True))
        if not fresh:
            stored_BMD = torch.stack([self._tokens[source, image_id] for image_id in image_ids])
            return stored_BMD.to(device, non_blocking=True)
        return torch.stack(
            [
                fresh[i] if i in fresh else self._tokens[source, i].to(device, non_blocking=True)
                for i in image_ids
            ]
        ).to(device)

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
