"""Head models: FLAME's vertices, landmarks and regions, and the embedded open head."""

from flamejax.head._dense_landmarks import (
    DENSE_FORMAT_VERSION,
    NUM_DENSE,
    NUM_INNER,
    calibrated,
    dense_landmarks,
    dense_landmarks_path,
    geometry_hash,
    load_dense_landmarks,
)
from flamejax.head._landmarks import (
    check_landmarks,
    contour_bin,
    landmark_head,
    landmark_triangles,
    landmarks,
    landmarks_from_vertices,
)
from flamejax.head._load import load_head
from flamejax.head._unpose import unpose, unposed_jacobian, unposed_planes
from flamejax.head.blend_skin import ShapedHead, pose_shaped, select_vertices, shape_identity, vertices
from flamejax.head.formats import FlameFiles, HeadFileError, head_digest, open_head_path
from flamejax.head.kinematics import head_frame, joints, rest_joints, root_joint, shaped_joints
from flamejax.head.model import JOINT_NAMES, DenseLandmarks, HeadModel, LandmarkEmbedding
from flamejax.head.params import HeadParams
from flamejax.head.regions import REGION_NAMES
from flamejax.head.rotation import axis_angle, rotation_matrix, skew_matrix

__all__ = [
    "DENSE_FORMAT_VERSION",
    "JOINT_NAMES",
    "NUM_DENSE",
    "NUM_INNER",
    "REGION_NAMES",
    "DenseLandmarks",
    "FlameFiles",
    "HeadFileError",
    "HeadModel",
    "HeadParams",
    "LandmarkEmbedding",
    "ShapedHead",
    "axis_angle",
    "calibrated",
    "check_landmarks",
    "contour_bin",
    "dense_landmarks",
    "dense_landmarks_path",
    "geometry_hash",
    "head_digest",
    "head_frame",
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
    "select_vertices",
    "shape_identity",
    "shaped_joints",
    "skew_matrix",
    "unpose",
    "unposed_jacobian",
    "unposed_planes",
    "vertices",
]
