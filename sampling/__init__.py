"""Sets of plausible heads for one photo: determinantal point processes, diffusion samplers, ranking."""

import flamejax._shadow  # noqa: F401  says so where a folder of the user's hides one of our packages
