"""`python -m experiments.view`."""

import sys

from experiments.view.command import main

if __name__ == "__main__":
    sys.exit(main())
