"""Run the stages of a config: `python tools/train.py CONFIG`, `mim train tove_plugins CONFIG`.

mim asks this script for `-h` before it runs it, so nothing heavy is imported until the arguments
are read.
"""

import argparse
import sys

from tove.command_line import prepare_process


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Run the stages of a ToVE config.")
    parser.add_argument("config", help="path of the config file")
    parser.add_argument("--work-dir", help="where everything is written (overrides the config)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep finished stages and go on at the iteration an interrupted one had saved",
    )
    parser.add_argument("--stage", help="run this stage alone, from what earlier stages wrote")
    parser.add_argument("--checkpoint", help="with --stage: the model checkpoint it starts from")
    parser.add_argument(
        "--amp", action="store_true", help="mixed precision (in float16 on an accelerator)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="settings that override the config, such as data_root=DIR schedule.steps=300",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    args = parser.parse_args(argv)
    if args.checkpoint and not args.stage:
        parser.error("--checkpoint needs --stage: it says which stage starts from that file")
    return args


def main() -> None:
    """Parse, import the engine, run."""
    args = parse_args()
    prepare_process()
    from tove.cli import train

    sys.exit(train(args))


if __name__ == "__main__":
    main()
