"""Sets of plausible heads for one photo: determinantal point processes, diffusion samplers, ranking."""
