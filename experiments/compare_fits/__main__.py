"""`python -m experiments.compare_fits`."""

import sys

from experiments.compare_fits.command import main

if __name__ == "__main__":
    sys.exit(main())
