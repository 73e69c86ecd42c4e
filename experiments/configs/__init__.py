"""What `python -m experiments.train` trains: one module per config, with `SUMMARY`, `Config` and `run`."""
