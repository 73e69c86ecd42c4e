"""Makes tests/golden/chumpy.pkl with real chumpy: `python -m tests.golden.make_chumpy`.

Needs `pip install --no-deps chumpy-fork==0.71 six`: the fork runs on current NumPy, and pickles as chumpy 0.70 except
for its module's name, which is corrected here.
"""

import pickle
from pathlib import Path

import numpy as np


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Returns the pickle's arrays "whole" (4, 3, 2) and its selection "part" (4, 3, 1)."""
    full = np.arange(24.0).reshape(4, 3, 2)
    return full, full[:, :, 1:]


def main() -> None:
    """Write the file."""
    import inspect

    # The fork uses a function that Python 3.11 has removed.
    inspect.getargspec = inspect.getfullargspec  # type: ignore[attr-defined]
    import chumpy_fork

    full = chumpy_fork.array(arrays()[0])
    part = full[:, :, 1:]
    assert np.array_equal(part.r, arrays()[1])
    data = pickle.dumps({"whole": full, "part": part}, 2)
    Path(__file__).with_name("chumpy.pkl").write_bytes(data.replace(b"cchumpy_fork.", b"cchumpy."))


if __name__ == "__main__":
    main()
