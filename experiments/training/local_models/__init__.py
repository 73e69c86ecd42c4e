"""Training and judging the local models; the command is `python -m experiments.train --config local_pca`."""
