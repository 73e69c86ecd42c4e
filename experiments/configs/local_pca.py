"""Local PCA models of a head's 14 regions (Diverse3DFace, section 4.1).

python -m experiments.train --config local_pca --output fitting/assets/open_head_local.npz
python -m experiments.train --config local_pca --variant full --output fitting/assets/open_head_local_full.npz

Expected of the paper's variant: 454 shape and 206 expression components, 5.1 MB; on 60 test scans the face's median
error is 1.43 mm with the global components it keeps, 0.27 mm with all global ones, 0.15 mm with the local models.
Of the variant full: 387 and 201 components, 4.3 MB; 0.08 mm on 30 test scans. 9 to 16 minutes each, judging included,
on two cores that other work shared.
"""

from experiments.training.local_models.command import LocalOptions

SUMMARY = "local PCA models of the head's regions, from registered scans (about 10 minutes)"
CONFIG = LocalOptions()
