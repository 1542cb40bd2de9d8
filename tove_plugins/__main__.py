"""`python -m tove_plugins`."""

import sys

from tove_plugins._cli import main

sys.exit(main())
