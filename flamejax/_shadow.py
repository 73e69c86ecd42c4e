"""Detect a user's file or folder that shadows one of our packages. `No module named 'models.rank'` does not say so.

`python -m` and notebooks search the current folder first, and many users have a folder named `models` there. Each
package checks only those that it imports: `import fitting` works beside a user's own `experiments`.
"""

import importlib.util
from pathlib import Path

LIBRARY = ("flamejax", "models", "fitting", "sampling")
"""All packages except `experiments`."""


def check_packages(*names: str) -> None:
    """Raise an ImportError if anything shadows one of these packages. It says what does, and what to do."""
    root = Path(__file__).resolve().parents[1]
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # missing, or folders without an `__init__.py`
            continue
        location = Path(spec.origin).resolve()
        location = location.parent if location.name == "__init__.py" else location
        if location != root / name:
            kind = "folder" if location.is_dir() else "file"
            raise ImportError(
                f"the {kind} {location} hides flamejax's package `{name}`: "
                "run from another folder, rename it, or take it off PYTHONPATH."
            )
