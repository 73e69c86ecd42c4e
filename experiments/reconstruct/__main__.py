"""`python -m experiments.reconstruct`."""

import sys

from experiments.reconstruct import main

if __name__ == "__main__":
    sys.exit(main())
