"""`python -m tools.compare_fits`."""

import sys

from tools.compare_fits.command import main

if __name__ == "__main__":
    sys.exit(main())
