"""Check that an expert or a method keeps its contract: `mim run tove_plugins check`.

The same as `python -m tove_plugins check`, with the same arguments.
"""

import sys

from tove_plugins._cli import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))
