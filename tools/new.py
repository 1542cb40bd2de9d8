"""Write a plugin package to start from: `mim run tove_plugins new`.

The same as `python -m tove_plugins new`, with the same arguments.
"""

import sys

from tove_plugins._cli import main

if __name__ == "__main__":
    sys.exit(main(["new", *sys.argv[1:]]))
