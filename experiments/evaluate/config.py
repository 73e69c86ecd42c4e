"""What can be asked of `python -m experiments.evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.datasets.observations import Landmarks

Table = Literal[
    "fitting", "completion", "diversity", "hyperparameters", "moving-occlusion", "identity", "samples", "ranking",
    "expression",
]  # fmt: skip
DEFAULT_LIMITS: dict[Table, int] = {
    "fitting": 96, "completion": 120, "diversity": 24, "hyperparameters": 4, "moving-occlusion": 4, "identity": 240,
    "samples": 240, "ranking": 240, "expression": 24,
}  # fmt: skip
DIVERSE: tuple[Table, ...] = ("diversity", "hyperparameters", "moving-occlusion")
"""Tables of Algorithm 2's hypotheses."""
OFER: tuple[Table, ...] = ("identity", "samples", "ranking")
"""Tables of OFER's identities."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Print one of the papers' tables, computed on the open scans' test split (built when missing).

    Fits are kept in $FLAMEJAX_DATA/evaluate, by photo, method and the version of the code: a stopped run goes on where
    it was, and another table takes what it shares.
    """

    table: Table
    """fitting: mean head, global and global+local fit of occluded photos (Diverse3DFace, Table 1). completion: heads
    completed from their visible vertices by linear models and the Mesh-VAE. diversity: hypotheses by Diverse3DFace
    and its baselines (Tables 2, 3). hyperparameters: by k and n_sigma (Table 4). moving-occlusion: behind a patch
    at five places (Fig. 8). identity: what OFER's IdGen draws for new people, and IdRank picks (OFER, Table 1);
    samples: the best of n, and other samplers (Table 8); ranking: IdRank's order (Tables 9, 10). expression:
    hypotheses by Diverse3DFace, OFER, and both together (Tables 3 to 5)."""
    limit: int | None = None
    """fitting: 96 photos, completion: 120 scans, diversity and expression: 24 photos, hyperparameters and
    moving-occlusion: 4, spread over subjects and occluders; 0 for all 360. identity, samples, ranking: 240 people; 0
    for all 300. The defaults take up to 45 minutes on 2 cores."""
    photos: Path | None = None
    """diversity, hyperparameters, moving-occlusion: photos of this folder instead of the open scans', observed as
    `flamejax reconstruct` does. Nobody knows these heads: no CSE, and what is visible is what the global+local fit
    makes of the photo."""
    frames: Path | None = None
    """expression: a benchmark of the open head that `datasets.occluded_frames` made, instead of the open scans'
    photos."""
    split: Literal["test", "validation"] = "test"
    """Settings are chosen on `validation`."""
    preset: Literal["fast", "paper", "code"] = "fast"
    """How to fit: ours, or Algorithm 1 as in the paper or in its released code (slow)."""
    num_samples: int = 16
    """diversity, hyperparameters, moving-occlusion: hypotheses of each photo."""
    diversify_preset: Literal["fast", "paper"] = "fast"
    """diversity, hyperparameters, moving-occlusion: settings of Algorithm 2."""
    landmarks: Landmarks = "exact"
    """The true landmarks, or those of the default detector."""
    robustness: bool = True
    """fitting: also fit the clean photos and find masks: the tables of robustness and of masks."""
    seed: int = 0
    """Of what a detector would make of hidden landmarks; of masks of vertices, samples and hypotheses."""
    weights: Path | None = None
    """A Mesh-VAE's weights; those that ship when left out."""
    idgen: Path | None = None
    """identity, samples, ranking, expression: weights of IdGen; those that ship when left out."""
    idrank: Path | None = None
    """identity, ranking, expression: weights of IdRank; those that ship when left out."""
    expgen: Path | None = None
    """expression: weights of ExpGen; those that ship when left out."""
    json: Path | None = None
    """Write the rows here as a list of objects; the other tables into a `.more.json` beside it."""
    markdown: Path | None = None
    """Write the tables here as Markdown."""
    csv: Path | None = None
    """Write the rows here as CSV."""
    figure: Path | None = None
    """Write a PNG or JPG here: the histogram of errors (Fig. 6); completed heads, and samples into a `-samples.png`;
    hypotheses by occluder (Fig. 3), and the way from one to another (Fig. 9) into an `-interpolation.png`; heat maps of
    k and n_sigma (Table 4); hypotheses behind the patch at each place (Fig. 8)."""

    def __post_init__(self) -> None:
        if self.photos is not None and self.table not in DIVERSE:
            raise ValueError(f"--photos goes with --table {', '.join(DIVERSE)}, not with {self.table}.")
        if self.frames is not None and self.table != "expression":
            raise ValueError(f"--frames goes with --table expression, not with {self.table}.")
        if self.frames is not None and self.landmarks != "exact":
            raise ValueError(f"--frames goes with the true landmarks, not with --landmarks {self.landmarks}.")
        if not 1 <= self.num_samples <= 100:
            raise ValueError(f"--num-samples is between 1 and 100, not {self.num_samples}.")
        if self.figure is not None and self.table in (*OFER, "expression"):
            raise ValueError(f"--figure does not go with --table {self.table}.")

    @property
    def most(self) -> int | None:
        """How many photos, scans or people are taken at most; None: all."""
        return DEFAULT_LIMITS[self.table] if self.limit is None else self.limit or None

    @property
    def data(self) -> Literal["test", "full"]:
        """The config of the open scans in which the split is."""
        return "test" if self.split == "test" else "full"
