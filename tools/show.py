"""Tell all that is known of an expert or a method: `mim run tove_plugins show`.

The same as `python -m tove_plugins show`, with the same arguments.
"""

import sys

from tove_plugins._cli import main

if __name__ == "__main__":
    sys.exit(main(["show", *sys.argv[1:]]))
