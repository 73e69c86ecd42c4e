"""Encoders, which map a photo and its landmarks to the context of a diffusion model (OFER, CVPR 2025).

`Encoder` is their interface; docs/how-to/encoders.md says where the weights come from.
"""

from models.encoders.arcface import ArcFace, IResNetConfig
from models.encoders.conditioned import Conditioned, load_image_encoders
from models.encoders.convert import read_arcface, read_farl
from models.encoders.farl import FaRL, ViTConfig
from models.encoders.files import (
    EncoderName,
    describe_encoder,
    encoder_path,
    load_arcface,
    load_encoder,
    load_farl,
    write_encoder,
)
from models.encoders.interface import Encoder, ImageEncoder, concatenate_encoders
from models.encoders.landmark import LandmarkEncoder, LandmarkEncoderConfig, reference_landmarks

__all__ = [
    "ArcFace",
    "Conditioned",
    "Encoder",
    "EncoderName",
    "FaRL",
    "IResNetConfig",
    "ImageEncoder",
    "LandmarkEncoder",
    "LandmarkEncoderConfig",
    "ViTConfig",
    "concatenate_encoders",
    "describe_encoder",
    "encoder_path",
    "load_arcface",
    "load_encoder",
    "load_farl",
    "load_image_encoders",
    "read_arcface",
    "read_farl",
    "reference_landmarks",
    "write_encoder",
]
