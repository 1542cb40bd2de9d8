"""Test claims in miniature: `python tools/reproduce.py [--claim NAME]`.

`mim run tove_plugins reproduce` is the same. A grid of ordinary runs for each claim, a page with
its answer for each. Call it again after an interruption: what has finished is kept.
"""

import argparse
import sys
from pathlib import Path

from tove.command_line import check_least, prepare_process

_HERE = Path(__file__).resolve().parent


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Test claims in miniature.")
    parser.add_argument(
        "--claim",
        nargs="+",
        metavar="NAME",
        help="of configs/claims, or a file of your own (default: all)",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="how many (default: the claim's)")
    parser.add_argument("--quick", action="store_true", help="a first look: smaller and fewer runs")
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("work_dirs/reproduce"),
        help="of the runs (default: %(default)s)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="of the pages (default: docs/results; of --quick, quick in the work folder)",
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: the cores)")
    args = parser.parse_args(argv)
    check_least(parser, args, seeds=1, jobs=1)
    args.claims, args.train = _HERE.parent / "configs/claims", _HERE / "train.py"
    return args


def main() -> None:
    """Parse, import the engine, run."""
    args = parse_args()
    prepare_process()
    from tove.cli import reproduce

    sys.exit(reproduce(args))


if __name__ == "__main__":
    main()
