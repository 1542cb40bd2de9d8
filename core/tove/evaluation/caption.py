"""Caption scores: CIDEr (Vedantam et al., arXiv 1411.5726) and BLEU-1..4, by pycocoevalcap.

pycocoevalcap's own tokenizer starts a Java program; `caption_words` follows the same Penn Treebank
rules for lower-cased captions and drops the same punctuation, in Python.
"""

import re
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric

from tove.evaluation.intervals import bootstrap_interval
from tove.registry import METRICS

__all__ = ["CaptionScore", "caption_words"]

# Curly quotes and long dashes by code point; brackets as the Treebank writes them (the COCO scorer
# keeps these, since it looks for their capital forms after lower-casing).
_PLAIN = {0x2018: "'", 0x2019: "'", 0x60: "'", 0x201C: '"', 0x201D: '"', 0x2013: " ", 0x2014: " "}
_BRACKETS = {"(": "lrb", ")": "rrb", "[": "lsb", "]": "rsb", "{": "lcb", "}": "rcb"}
_SUBSTITUTES = str.maketrans(_PLAIN | {ord(k): f" -{v}- " for k, v in _BRACKETS.items()})
_COMPOUNDS = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "gimme": "gim me",
    "lemme": "lem me",
}
_WORD = re.compile(
    r"""
      (?:[a-z]\.){2,}                             # u.s.
    | \b(?:mr|mrs|ms|dr|st|jr|sr|vs|etc|mt)\.(?=\s)    # abbreviations keep their full stop
    | no\.(?=\s\d)
    | -[lr][rsc]b-
    | \d+(?:[.,:]\d+)+                            # 3.5  10:30  1,000
    | o'clock
    | n't\b | '(?:s|re|ve|ll|d|m)\b               # the tails of don't, man's
    | '?\bn'?\b(?=\s|')                           # rock 'n roll
    | [^\W_]+?(?=n't\b)                           # the do of don't
    | [@]?\w+(?:[-/.]\w+)*                        # black-and-white, @home
    | [^\w\s.,:;?!'"\u2026-]                      # $ % & stay, other punctuation goes
    """,
    re.VERBOSE,
)


def caption_words(text: str) -> str:
    """Return the words of a caption, lower case, separated by single spaces."""
    words = _WORD.findall(text.lower().translate(_SUBSTITUTES))
    return " ".join(_COMPOUNDS.get(word, word) for word in words)


@METRICS.register_module()
class CaptionScore(BaseMetric):
    """CIDEr with a bootstrap interval over images, and BLEU.

    CIDEr is 1.0 where papers write 100. Its interval resamples the images' scores; the document
    frequencies stay those of the whole set. Samples of other tasks are left out, see
    `StatementAccuracy`.

    Attributes:
        item_metric: the score that `item_scores` are the items of.
        item_scores: after `evaluate`, on the main process: CIDEr of each image by its id.

    Args:
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
        collect_device: mmengine's: "cpu" or "gpu".
        prefix: mmengine's: of the names of the scores.
    """

    default_prefix = "caption"
    item_metric = "CIDEr"

    def __init__(
        self,
        num_resamples: int = 2000,
        seed: int = 0,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.num_resamples = num_resamples
        self.seed = seed
        self.item_scores: dict[str, float] = {}

    def process(self, data_batch: object, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep of each sample its id and the words of the captions."""
        for sample in data_samples:
            item = None
            if sample["task"] == "caption" and not sample.get("skipped"):
                references = [caption_words(text) for text in sample["references"]]
                item = (sample["image_id"], caption_words(sample["prediction"]), references)
            self.results.append(item)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return CIDEr, CIDEr_low, CIDEr_high, BLEU_1..4 and num_images."""
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider

        items = {item[0]: item[1:] for item in results if item is not None}
        self.item_scores = {}
        if not items:
            return {}
        references = {key: item[1] for key, item in items.items()}
        predictions = {key: [item[0]] for key, item in items.items()}
        _, per_image = Cider().compute_score(references, predictions)
        self.item_scores = dict(zip(items, map(float, per_image), strict=True))
        cider = bootstrap_interval(list(self.item_scores.values()), self.num_resamples, self.seed)
        bleu, _ = Bleu(4).compute_score(references, predictions, verbose=0)
        scores: dict[str, float] = dict(
            CIDEr=cider.value, CIDEr_low=cider.low, CIDEr_high=cider.high, num_images=cider.n
        )
        return scores | {f"BLEU_{k}": float(score) for k, score in enumerate(bleu, start=1)}
