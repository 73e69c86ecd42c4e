"""Training and evaluating local models; the command is `python -m experiments.train --config local_pca`."""
