"""File formats of head models: FLAME, ICT-FaceKit, .npz, and pickles read as data."""
