"""What people run: the command line, training, evaluation and benchmarks. Nothing else imports from here."""

import runpy
from pathlib import Path

# The check for folders that hide our packages, by its path: `flamejax` itself may be hidden, and it imports JAX, which
# would make `flamejax --help` slow.
_check = runpy.run_path(str(Path(__file__).parents[1] / "flamejax" / "_shadow.py"))
_check["check_packages"](*_check["LIBRARY"])
