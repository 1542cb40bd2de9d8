"""What a method is measured against: no experts, and other ways of using the same ones."""

from tove.methods.baselines.concat import ConcatChannels, ConcatTokens
from tove.methods.baselines.matched_mlp import MatchedBaseline
from tove.methods.baselines.other_transfers import (
    ToVEConcat,
    ToVECrossAttention,
    ToVEReplace,
    ToVESeparateLayers,
)
from tove.methods.baselines.plain_clip import PlainCLIP
from tove.methods.baselines.prismer_resampler import PrismerResampler
from tove.methods.baselines.single_expert import SingleExpert
from tove.methods.baselines.uniform_average import UniformAverage

__all__ = [
    "ConcatChannels",
    "ConcatTokens",
    "MatchedBaseline",
    "PlainCLIP",
    "PrismerResampler",
    "SingleExpert",
    "ToVEConcat",
    "ToVECrossAttention",
    "ToVEReplace",
    "ToVESeparateLayers",
    "UniformAverage",
]
