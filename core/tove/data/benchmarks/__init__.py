"""Published benchmarks, read from their own files: questions, captions, shards of image-text."""

from tove.data.benchmarks.captions import BenchmarkCaptions
from tove.data.benchmarks.questions import BenchmarkQuestions

__all__ = ["BenchmarkCaptions", "BenchmarkQuestions"]
