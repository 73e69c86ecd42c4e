"""Data sets, read and made: heads, photos of them, and what hides them.

open_people       random people and face units in the open head's topology, from CC0 data
open_faces        registered scans of such people, with details, expressions and photos: the default data set
occluded_frames   occluded photos of expressive scans by CO-545's protocol
registered_scans  folders of scans of one's own (CoMA, D3DFACS); `scans` has either these or the open faces
observations      photos of the open faces as a fit is told of them
renders           rendered photos of random known heads
vertex_masks      vertices hidden by rectangles and patches
synthetic_flame   a stand-in for FLAME's files
"""
