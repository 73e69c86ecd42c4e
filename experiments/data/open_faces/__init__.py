"""The open scans: registered heads with details, expressions and photos, made from CC0 data. See docs/open-faces.md."""

from .expressions import EXPRESSIONS
from .read import Scans, ensure_scans, load_scans
from .scans import posed
from .subjects import CONFIGS, SPLITS

__all__ = ["CONFIGS", "EXPRESSIONS", "SPLITS", "Scans", "ensure_scans", "load_scans", "posed"]
