"""Say what a config takes, before anything is downloaded: `python tools/plan.py CONFIG`.

`mim run tove_plugins plan CONFIG` is the same: parameters, operations, memory, size of a token
cache and, where a rate is given or measured, hours and price. No weights are needed, and no data.
"""

import argparse
import sys
from pathlib import Path

from tove.command_line import check_endings, check_least, prepare_process


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Say what a config is going to take.")
    parser.add_argument("config", help="path of the config file")
    parser.add_argument("--stage", help="this stage alone")
    parser.add_argument("--images", type=int, help="whose tokens a cache is to hold")
    parser.add_argument(
        "--words", type=int, default=32, help="of a sample's text (default: %(default)s)"
    )
    parser.add_argument(
        "--gpus", type=int, default=1, help="processes, a device each (default: %(default)s)"
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--tflops", type=float, help="10^12 operations a second that one device sustains"
    )
    how.add_argument(
        "--probe", action="store_true", help="time a few steps here; the weights are needed"
    )
    parser.add_argument("--price", type=float, help="of one device for an hour")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here as well")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a picture here")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="settings that override the config, such as batch_size=16",
    )
    args = parser.parse_args(argv)
    check_least(parser, args, images=1, words=2, gpus=1, tflops=1e-9, price=0)
    check_endings(parser, args, plot=(".png",))
    return args


def main() -> None:
    """Parse, import the engine, plan."""
    args = parse_args()
    prepare_process()
    from tove.cli import plan

    sys.exit(plan(args))


if __name__ == "__main__":
    main()
