"""The inputs of the fixtures: integer arithmetic, so that every machine makes the same float64.

value[j] = offset + 2*scale*( ((A*j*j + B*j + C) mod 10007)/10007 - 0.5 ),  j = 0..n-1 row-major,
A = 31 + 2*seed, B = 17 + 6*seed, C = 101*seed.   n <= 10007.
"""

import math

import torch

P = 10007


def fill(shape, seed, scale=1.0, offset=0.0):
    n = math.prod(shape)
    assert n <= P, (shape, n)
    j = torch.arange(n, dtype=torch.int64)
    r = ((31 + 2 * seed) * j * j + (17 + 6 * seed) * j + 101 * seed) % P
    return (offset + 2.0 * scale * (r.double() / P - 0.5)).reshape(shape)


def probe(shape, which=0):
    """Fixed cotangent / checksum weights: fill(shape, 900+which, 1.0)."""
    return fill(shape, 900 + which, 1.0)


def digest(t):
    """shape, sum, sum of squares, dot with probe 0, first three values (row-major), last value."""
    if t is None:
        return None
    t = t.detach().double()
    flat = t.reshape(-1)
    return {
        "shape": list(t.shape),
        "sum": flat.sum().item(),
        "sumsq": (flat * flat).sum().item(),
        "dot": (t * probe(t.shape)).sum().item(),
        "first": flat[:3].tolist(),
        "last": flat[-1].item(),
    }


def short(t):
    """A gradient's checksum: sum, sum of squares, dot with probe 0; None where there is none."""
    if t is None:
        return None
    t = t.detach().double()
    return [t.sum().item(), (t * t).sum().item(), (t * probe(t.shape)).sum().item()]
