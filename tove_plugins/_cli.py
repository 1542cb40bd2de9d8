"""The command line: `python -m tove_plugins list | show | check | new`.

An error that its user can mend is printed as its sentence and gives exit status 2.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from tove_plugins._commands import _check, _list, _new, _show
from tove_plugins._errors import (
    CommandError,
    ExpertBuildError,
    MethodImportError,
    NotAvailable,
    SpecError,
)

__all__ = ["build_parser", "main"]

COMMANDS = {
    "list": (_list, "list experts, methods and what became of each plugin"),
    "show": (_show, "tell all that is known of an expert or a method"),
    "check": (_check, "check that an expert or a method keeps its contract"),
    "new": (_new, "write a plugin package to start from"),
}
MENDABLE = (CommandError, ExpertBuildError, MethodImportError, NotAvailable, SpecError)


def build_parser() -> argparse.ArgumentParser:
    """Give the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tove_plugins",
        description="Look at experts and methods, check them, write new ones.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, description) in COMMANDS.items():
        command = commands.add_parser(name, help=description, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit status."""
    parsed = build_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale without UTF-8 cannot print all of it
            stream.reconfigure(errors="backslashreplace")
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except MENDABLE as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader had enough, as in `list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for the interpreter's last flush
        return 0
    return status
