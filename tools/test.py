"""Evaluate a checkpoint: `python tools/test.py CONFIG FILE`, `mim test tove_plugins CONFIG`.

Slim checkpoints are evaluated without the packages of the experts that were detached from them.
"""

import argparse
import sys

from tove.command_line import prepare_process


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; mim passes the checkpoint by position."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint of a ToVE config.")
    parser.add_argument("config", help="path of the config file")
    parser.add_argument("checkpoint_file", nargs="?", help="the checkpoint")
    parser.add_argument("--checkpoint", help="the checkpoint, by name")
    parser.add_argument("--work-dir", help="where rows.json is written (overrides the config)")
    parser.add_argument("--split", choices=["val", "test"], default="test")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="settings that override the config",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    args = parser.parse_args(argv)
    args.checkpoint = args.checkpoint or args.checkpoint_file
    if not args.checkpoint:
        parser.error("give the checkpoint to evaluate: --checkpoint FILE")
    return args


def main() -> None:
    """Parse, import the engine, evaluate."""
    args = parse_args()
    prepare_process()
    from tove.cli import test

    sys.exit(test(args))


if __name__ == "__main__":
    main()
