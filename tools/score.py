"""Tell what an expert adds beside the built-in ones: `python tools/score.py NAME`.

`mim run tove_plugins score NAME` is the same. The expert, of any installed package, is trained with
alone and beside the others in the miniature; a table says what it adds, with what it costs, and a
picture says so in a README. Call it again after an interruption: what has finished is kept.
"""

import argparse
import sys
from pathlib import Path

from tove.command_line import check_endings, check_least, prepare_process

_HERE = Path(__file__).resolve().parent


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Tell what an expert adds beside others.")
    parser.add_argument("name", metavar="NAME", help="of an expert, see `list`")
    parser.add_argument(
        "--options", nargs="+", metavar="KEY=VALUE", help="of the expert, such as spacing=2"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a first look: smaller runs")
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("work_dirs/score"),
        help="of the runs (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: the cores)")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="SVG or PNG (default: NAME.svg)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here as well")
    args = parser.parse_args(argv)
    check_least(parser, args, seeds=1, jobs=1)
    check_endings(parser, args, picture=(".svg", ".png"))
    args.config = _HERE.parent / "configs/tiny/tove-tiny_scenes.py"
    args.train = _HERE / "train.py"
    return args


def main() -> None:
    """Parse, import the engine, run."""
    args = parse_args()
    prepare_process()
    from tove.cli import score

    sys.exit(score(args))


if __name__ == "__main__":
    main()
