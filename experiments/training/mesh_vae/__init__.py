"""Training of the Mesh-VAE: heads, steps, evaluation. The configs `mesh_vae_small` and `mesh_vae` run it."""
