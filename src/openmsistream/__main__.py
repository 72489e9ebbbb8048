"""``python -m openmsistream``: the same as the ``openmsistream`` command."""

import sys

from openmsistream.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
