"""Turn an exported encoder into another format: `python tools/export.py FOLDER --format onnx`.

`mim run tove_plugins export FOLDER --format onnx` is the same.
"""

import argparse
import sys
from pathlib import Path

from tove.command_line import prepare_process


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Turn an exported encoder into another format.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="that an ExportStage wrote")
    parser.add_argument("--format", choices=["onnx"], default="onnx")
    parser.add_argument("--output", type=Path, help="the file (default: FOLDER/model.onnx)")
    return parser.parse_args(argv)


def main() -> None:
    """Parse, import the engine, export."""
    args = parse_args()
    prepare_process()
    from tove.cli import export

    sys.exit(export(args))


if __name__ == "__main__":
    main()
