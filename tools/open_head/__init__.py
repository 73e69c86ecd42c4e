"""Builder of the open head: a licence-free head model in FLAME's format, made of CC0 MakeHuman data."""
