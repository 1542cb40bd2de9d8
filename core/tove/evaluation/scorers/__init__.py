"""Scores of published benchmarks by their official rules, and submissions to their servers."""

from tove.evaluation.scorers.benchmark import BenchmarkScore

__all__ = ["BenchmarkScore"]
