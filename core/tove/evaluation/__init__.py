"""Scores with intervals: accuracy of statements, CIDEr and BLEU of captions, paired comparison."""

from tove.evaluation.accuracy import AnswerAccuracy, ConversationAccuracy, StatementAccuracy
from tove.evaluation.caption import CaptionScore, caption_words
from tove.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    paired_interval,
    share_interval,
    wilson_interval,
)

__all__ = [
    "AnswerAccuracy",
    "CaptionScore",
    "ConversationAccuracy",
    "Interval",
    "StatementAccuracy",
    "bootstrap_interval",
    "caption_words",
    "paired_interval",
    "share_interval",
    "wilson_interval",
]
