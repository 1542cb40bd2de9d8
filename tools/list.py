"""List the experts and methods of this environment: `mim run tove_plugins list`.

The same as `python -m tove_plugins list`, with the same arguments.
"""

import sys

from tove_plugins._cli import main

if __name__ == "__main__":
    sys.exit(main(["list", *sys.argv[1:]]))
