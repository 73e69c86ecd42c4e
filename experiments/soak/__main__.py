"""`python -m experiments.soak`."""

import sys

from experiments.soak.command import main

sys.exit(main())
