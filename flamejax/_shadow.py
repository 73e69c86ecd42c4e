"""Says when something of the user's hides a package of ours, which a bare `No module named 'models.rank'` does not.

`python -m` and notebooks look for packages in the folder they are run from first, and `models` is a name that many have
there. Importing this module is the check; it is what `fitting`, `sampling` and the commands do first.
"""

import importlib.util
from pathlib import Path

PACKAGES = ("flamejax", "models", "fitting", "sampling", "experiments")


def hidden_package() -> str | None:
    """What hides which of `PACKAGES` and what to do about it, in a sentence; None where nothing does."""
    ours = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # not there at all, or folders without an `__init__.py`
            continue
        found = Path(spec.origin).resolve()
        found = found.parent if found.name == "__init__.py" else found
        if found != ours / name:
            kind = "folder" if found.is_dir() else "file"
            return (
                f"the {kind} {found} hides flamejax's package `{name}`: "
                "run from another folder, rename it, or take it off PYTHONPATH."
            )
    return None


if (_hidden := hidden_package()) is not None:
    raise ImportError(_hidden)
