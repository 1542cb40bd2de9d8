"""Ask a trained model about a photo: `python tools/ask.py WORK_DIR IMAGE QUESTION`.

`mim run tove_plugins ask WORK_DIR IMAGE QUESTION` is the same.
"""

import argparse
import sys
from pathlib import Path

from tove.command_line import add_model_options, prepare_process


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Ask a trained model about a photo.")
    parser.add_argument("work_dir", type=Path, metavar="WORK_DIR", help="of a finished run")
    parser.add_argument("image", metavar="IMAGE", help="a file")
    parser.add_argument("question", metavar="QUESTION", help="or, with --judge, a statement")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--answers", nargs="+", metavar="ANSWER", help="to choose from, by likelihood")
    how.add_argument("--judge", action="store_true", help="say whether a statement is true")
    add_model_options(parser)
    return parser.parse_args(argv)


def main() -> None:
    """Parse, import the engine, ask."""
    args = parse_args()
    prepare_process()
    from tove.cli import ask

    sys.exit(ask(args))


if __name__ == "__main__":
    main()
