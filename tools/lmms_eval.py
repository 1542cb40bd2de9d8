"""Run lmms-eval's benchmarks: `python tools/lmms_eval.py FOLDER --tasks TASK ...`.

`mim run tove_plugins lmms_eval FOLDER --tasks TASK ...` is the same. FOLDER is a Llava folder, such
as an ExportStage writes. lmms-eval has an environment of its own, which the first call makes; its
scores become a row beside the folder, for `compare`.
"""

import argparse
import sys
from pathlib import Path

from tove.command_line import check_least, prepare_process


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Run lmms-eval's benchmarks on a Llava folder.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the Llava model")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK", help="such as pope")
    parser.add_argument(
        "--env",
        type=Path,
        default=Path(".venv-lmms-eval"),
        metavar="FOLDER",
        help="of the environment that has lmms-eval (default: %(default)s, made if missing)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for scores (default: FOLDER-lmms_eval)"
    )
    parser.add_argument("--device", default="cuda", help="such as cpu (default: %(default)s)")
    parser.add_argument(
        "--include-path", type=Path, metavar="FOLDER", help="of tasks of your own, *.yaml"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N samples of each task")
    args = parser.parse_args(argv)
    check_least(parser, args, limit=1)
    return args


def main() -> None:
    """Parse, import the engine, evaluate."""
    args = parse_args()
    prepare_process()
    from tove.cli import lmms_eval

    sys.exit(lmms_eval(args))


if __name__ == "__main__":
    main()
