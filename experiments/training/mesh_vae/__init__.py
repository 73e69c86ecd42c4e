"""Training of the Mesh-VAE: heads, steps, checkpoints, judging. the config `mesh_vae` runs it."""
