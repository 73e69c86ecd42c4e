"""Training and evaluating local models; the command is `flamejax train --config local_pca`."""
