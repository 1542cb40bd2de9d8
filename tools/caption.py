"""Describe photos with a trained model: `python tools/caption.py WORK_DIR IMAGE ...`.

`mim run tove_plugins caption WORK_DIR IMAGE ...` is the same.
"""

import argparse
import os
import sys
from pathlib import Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Describe photos with a trained model.")
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="of a finished run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files")
    parser.add_argument("--prompt", help="how the caption begins (default: the run's)")
    parser.add_argument("--detached", nargs="+", default=[], metavar="SLOT", help="experts to omit")
    parser.add_argument("--stage", help="whose model, or a row's name (default: the method's)")
    parser.add_argument("--device", help="such as cpu or cuda (default: what there is)")
    parser.add_argument("--dtype", help="such as bfloat16 (default: as trained)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)


def main() -> None:
    """Parse, import the engine, describe."""
    args = parse_args()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see tools/train.py
    from tove.cli import caption

    sys.exit(caption(args))


if __name__ == "__main__":
    main()
