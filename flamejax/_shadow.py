"""Says when something of the user's hides a package of ours, which a bare `No module named 'models.rank'` does not.

`python -m` and notebooks look for packages in the folder they are run from first, and `models` is a name that many have
there. Each package asks for those that it needs itself: `import fitting` works beside a user's own `experiments`.
"""

import importlib.util
from pathlib import Path

LIBRARY = ("flamejax", "models", "fitting", "sampling")


def check_packages(*names: str) -> None:
    """Raises: ImportError, something hides one of these packages; it says what, and what to do."""
    ours = Path(__file__).resolve().parents[1]
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # not there at all, or folders without an `__init__.py`
            continue
        found = Path(spec.origin).resolve()
        found = found.parent if found.name == "__init__.py" else found
        if found != ours / name:
            kind = "folder" if found.is_dir() else "file"
            raise ImportError(
                f"the {kind} {found} hides flamejax's package `{name}`: "
                "run from another folder, rename it, or take it off PYTHONPATH."
            )
