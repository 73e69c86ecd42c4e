import sys

from experiments.evaluate.command import main

sys.exit(main())
