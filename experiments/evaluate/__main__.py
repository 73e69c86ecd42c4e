"""`python -m experiments.evaluate`."""

import sys

from experiments.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
