"""Training of the Mesh-VAE: heads, steps, evaluation. The config `mesh_vae` runs it."""
