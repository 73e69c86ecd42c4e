"""Training of the Mesh-VAE: heads, steps, checkpoints, judging. `experiments.configs.mesh_vae` is the command."""
