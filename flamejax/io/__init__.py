"""Files in and out: images and textured meshes."""
