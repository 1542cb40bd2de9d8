"""Describe photos with a trained model: `python tools/caption.py WORK_DIR IMAGE ...`.

`mim run tove_plugins caption WORK_DIR IMAGE ...` is the same.
"""

import argparse
import sys
from pathlib import Path

from tove.command_line import add_model_options, prepare_process


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Describe photos with a trained model.")
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="of a finished run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files")
    parser.add_argument("--prompt", help="how the caption begins (default: the run's)")
    add_model_options(parser)
    return parser.parse_args(argv)


def main() -> None:
    """Parse, import the engine, describe."""
    args = parse_args()
    prepare_process()
    from tove.cli import caption

    sys.exit(caption(args))


if __name__ == "__main__":
    main()
