"""Data sets, read or generated: heads, photos of them, and occluders.

open_people       random people and face units in the open head's topology, from CC0 data
open_faces        registered scans of such people, with details, expressions and photos: the default data set
occluded_frames   occluded photos of expressive scans by CO-545's protocol
registered_scans  folders of registered scans (CoMA, D3DFACS); `scans` reads these or the open faces
observations      photos of the open faces as observations for a fit
renders           rendered photos of random heads with known parameters
vertex_masks      vertices hidden by rectangles and patches
synthetic_flame   synthetic files in the format of FLAME's
"""
