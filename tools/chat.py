"""Talk with a model about a photo: `python tools/chat.py FOLDER IMAGE QUESTION ...`.

`mim run tove_plugins chat FOLDER IMAGE QUESTION ...` is the same. FOLDER is that of a finished run
with a chat model, or a Llava folder that an ExportStage wrote. Several questions are one
conversation: each is asked knowing the answers before it.
"""

import argparse
import sys
from pathlib import Path

from tove.command_line import add_model_options, prepare_process


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Talk with a model about a photo.")
    parser.add_argument(
        "work_dir", type=Path, metavar="FOLDER", help="of a finished run, or a Llava folder"
    )
    parser.add_argument("image", metavar="IMAGE", help="a file")
    parser.add_argument("questions", nargs="+", metavar="QUESTION", help="one after the other")
    add_model_options(parser)
    return parser.parse_args(argv)


def main() -> None:
    """Parse, import the engine, talk."""
    args = parse_args()
    prepare_process()
    from tove.cli import chat

    sys.exit(chat(args))


if __name__ == "__main__":
    main()
