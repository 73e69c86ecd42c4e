"""Training of OFER's networks: examples drawn online, or photos with their coefficients; IdGen, ExpGen, IdRank."""
