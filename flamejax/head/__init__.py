"""Head models: FLAME's function, its landmarks and regions, and the embedded open head."""

from flamejax.head._dense_landmarks import calibrated, dense_landmarks, load_dense_landmarks
from flamejax.head._landmarks import contour_bin, landmark_head, landmark_triangles, landmarks, landmarks_from_vertices
from flamejax.head._unpose import rest_joints, unpose
from flamejax.head.blend_skin import ShapedHead, head_at, pose_shaped, shape_identity, vertices
from flamejax.head.formats.files import HeadFileError, head_digest, open_head_path
from flamejax.head.formats.flame_files import FlameFiles
from flamejax.head.formats.load import load_head
from flamejax.head.joint_positions import joints, root_joint
from flamejax.head.model import JOINT_NAMES, DenseLandmarks, HeadModel, HeadParams, LandmarkEmbedding
from flamejax.head.rotation import rotation_matrix

__all__ = [
    "JOINT_NAMES",
    "DenseLandmarks",
    "FlameFiles",
    "HeadFileError",
    "HeadModel",
    "HeadParams",
    "LandmarkEmbedding",
    "ShapedHead",
    "calibrated",
    "contour_bin",
    "dense_landmarks",
    "head_at",
    "head_digest",
    "joints",
    "landmark_head",
    "landmark_triangles",
    "landmarks",
    "landmarks_from_vertices",
    "load_dense_landmarks",
    "load_head",
    "open_head_path",
    "pose_shaped",
    "rest_joints",
    "root_joint",
    "rotation_matrix",
    "shape_identity",
    "unpose",
    "vertices",
]
