"""Published benchmarks, read from their own files: questions, captions, shards of image-text."""

from tove.data.benchmarks.captions import BenchmarkCaptions
from tove.data.benchmarks.questions import BenchmarkQuestions
from tove.data.benchmarks.shards import ImageTextShards

__all__ = ["BenchmarkCaptions", "BenchmarkQuestions", "ImageTextShards"]
