"""Build the open head: a licence-free head model in FLAME's format, made from CC0 MakeHuman data."""
