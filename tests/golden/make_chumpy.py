"""Makes tests/golden/chumpy.pkl with real chumpy: `python -m tests.golden.make_chumpy`.

Needs `pip install --no-deps chumpy-fork==0.71 six`: the fork runs on today's numpy, and pickles as chumpy 0.70 does but
for its module's name, which is put right here.
"""

import pickle
from pathlib import Path

import numpy as np


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """What the pickle holds under "whole" (4, 3, 2) and, as a selection of it, "part" (4, 3, 1)."""
    whole = np.arange(24.0).reshape(4, 3, 2)
    return whole, whole[:, :, 1:]


def main() -> None:
    """Write the file."""
    import inspect

    # Even the fork asks for what Python 3.11 has dropped.
    inspect.getargspec = inspect.getfullargspec  # type: ignore[attr-defined]
    import chumpy_fork

    whole = chumpy_fork.array(arrays()[0])
    part = whole[:, :, 1:]
    assert np.array_equal(part.r, arrays()[1])
    data = pickle.dumps({"whole": whole, "part": part}, 2)
    Path(__file__).with_name("chumpy.pkl").write_bytes(data.replace(b"cchumpy_fork.", b"cchumpy."))


if __name__ == "__main__":
    main()
