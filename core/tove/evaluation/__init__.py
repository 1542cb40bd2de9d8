"""Scores with intervals: of statements, captions and published benchmarks; paired comparison."""

from tove.evaluation.accuracy import AnswerAccuracy, ConversationAccuracy, StatementAccuracy
from tove.evaluation.answer_log import AnswerLog
from tove.evaluation.caption import CaptionScore, caption_words
from tove.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    paired_interval,
    share_interval,
    wilson_interval,
)
from tove.evaluation.scorers import BenchmarkScore

__all__ = [
    "AnswerAccuracy",
    "AnswerLog",
    "BenchmarkScore",
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
