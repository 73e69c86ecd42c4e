"""File formats of head models: FLAME, ICT-FaceKit and .npz; pickles are read as data."""

from flamejax.head.formats._read import read_head
from flamejax.head.formats._save import write_head
from flamejax.head.formats.files import HeadFileError, head_digest, open_head_path
from flamejax.head.formats.flame_files import COMPANIONS, FLAME_NAME, FlameFiles
from flamejax.head.formats.flame_texture import LINEAR_TEXTURE, texture_entries
from flamejax.head.formats.ict_files import ICT_HOME, ICT_NEUTRAL, describe_ict
from flamejax.head.formats.npy_files import npz_names, read_bytes, read_npy, read_npz, read_npz_members
from flamejax.head.formats.obj_files import ObjMesh, read_obj, read_obj_vertices
from flamejax.head.formats.safe_pickle import PickleName, PickleRecord, load_pickle

__all__ = [
    "COMPANIONS",
    "FLAME_NAME",
    "ICT_HOME",
    "ICT_NEUTRAL",
    "LINEAR_TEXTURE",
    "FlameFiles",
    "HeadFileError",
    "ObjMesh",
    "PickleName",
    "PickleRecord",
    "describe_ict",
    "head_digest",
    "load_pickle",
    "npz_names",
    "open_head_path",
    "read_bytes",
    "read_head",
    "read_npy",
    "read_npz",
    "read_npz_members",
    "read_obj",
    "read_obj_vertices",
    "texture_entries",
    "write_head",
]
