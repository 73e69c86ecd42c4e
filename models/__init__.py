"""Networks over meshes, images and coefficients (Flax NNX), converters of public weights, pretrained defaults."""
