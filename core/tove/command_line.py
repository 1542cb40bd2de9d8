"""What the scripts in `tools` share before anything heavy is imported."""

import argparse
import os

__all__ = ["add_model_options", "spare_cores"]


def spare_cores() -> None:
    """Let threads that wait spin for a short while only; call it before torch is imported.

    Threads that spin long take the cores of what else runs on the machine, and of each other:
    without this a busy one is several times as slow, while an idle one is as fast.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add how a trained model is used: which of a run's, with which experts, where, and printed."""
    parser.add_argument("--detached", nargs="+", default=[], metavar="SLOT", help="experts to omit")
    parser.add_argument("--stage", help="whose model, or a row's name (default: the method's)")
    parser.add_argument("--device", help="such as cpu or cuda (default: what there is)")
    parser.add_argument("--dtype", help="such as bfloat16 (default: as trained)")
    parser.add_argument("--json", action="store_true", help="print JSON")
