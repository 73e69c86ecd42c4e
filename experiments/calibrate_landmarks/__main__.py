"""`python -m experiments.calibrate_landmarks`."""

import sys

from experiments.calibrate_landmarks.command import main

if __name__ == "__main__":
    sys.exit(main())
