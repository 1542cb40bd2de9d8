"""Set finished runs side by side: `python tools/compare.py WORK_DIR ...`.

`mim run tove_plugins compare WORK_DIR ...` is the same. One table of scores and costs, one of what
each part costs, and a picture of cost against gain.
"""

import argparse
import sys
from pathlib import Path

from tove.command_line import check_endings, prepare_process


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Set finished runs side by side.")
    parser.add_argument("work_dirs", nargs="+", type=Path, metavar="WORK_DIR", help="of a run")
    parser.add_argument("--metric", help="the score to compare (default: vsr/accuracy if measured)")
    parser.add_argument(
        "--pool",
        nargs="+",
        default=[],
        metavar="NAME",
        help="pool runs that differ in these settings too, such as data_root; the seed always is",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        default=Path("comparison.png"),
        metavar="FILE",
        help="the picture (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here as well")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the tables here as well")
    args = parser.parse_args(argv)
    check_endings(parser, args, plot=(".png",))
    return args


def main() -> None:
    """Parse, import the engine, compare."""
    args = parse_args()
    prepare_process()
    from tove.cli import compare

    sys.exit(compare(args))


if __name__ == "__main__":
    main()
