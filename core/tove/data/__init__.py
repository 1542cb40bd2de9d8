"""Data sets: captions, statements, questions, published benchmarks, unlabelled images.

A sample is dict(image=uint8 [3, S, S], sample=dict(image_id, image_path, task, prompt, target,
...)); `tove_collate` makes dict(images=uint8 [B, 3, S, S], data_samples=list) of a batch.
"""

from tove.data.benchmarks import BenchmarkCaptions, BenchmarkQuestions, ImageTextShards
from tove.data.coco_captions import CocoCaptions
from tove.data.collate import tove_collate
from tove.data.conversations import LlavaConversations
from tove.data.image_io import CorruptImage, TooManyCorruptImages, load_image, shared_view
from tove.data.questions import Questions
from tove.data.unlabelled import UnlabelledImages
from tove.data.vsr import VSRStatements

__all__ = [
    "BenchmarkCaptions",
    "BenchmarkQuestions",
    "CocoCaptions",
    "CorruptImage",
    "ImageTextShards",
    "LlavaConversations",
    "Questions",
    "TooManyCorruptImages",
    "UnlabelledImages",
    "VSRStatements",
    "load_image",
    "shared_view",
    "tove_collate",
]
