"""ArcFace's network: the improved residual network (iResNet) of Deng et al., "ArcFace: Additive Angular Margin Loss for
Deep Face Recognition" (CVPR 2019, section 3.1), with batch norm by running statistics."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from models.encoders.alignment import ARCFACE_SIZE, arcface_transform, warp
from models.encoders.layers import BatchNorm, Convolution, Linear, PReLU


@dataclasses.dataclass(frozen=True)
class IResNetConfig:
    """Architecture. Each stage halves the image."""

    blocks: tuple[int, ...] = (3, 4, 14, 3)
    """Number of blocks of each stage."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of each stage."""
    stem: int = 64
    """Channels before the first stage."""
    width: int = 512
    """Width of the embedding."""
    image_size: int = ARCFACE_SIZE
    """Side of the input, pixels."""

    def __post_init__(self) -> None:
        if not self.blocks or len(self.blocks) != len(self.widths) or self.final_size < 1:
            raise ValueError(f"an iResNet needs one width per stage, and an image_size of at least 1: {self}")

    @property
    def final_size(self) -> int:
        """Side of the last feature map, pixels."""
        return -(-self.image_size // 2 ** len(self.blocks))

    @property
    def feature_width(self) -> int:
        """Size of the flattened last feature map."""
        return self.final_size**2 * self.widths[-1]


IRESNET50 = IResNetConfig()
IRESNET100 = IResNetConfig(blocks=(3, 13, 30, 3))


class IResNetBlock(nnx.Module):
    """BN, 3x3, BN, PReLU, 3x3 with the stride, BN; added to the input, or to its 1x1 convolution and BN."""

    def __init__(self, in_features: int, out_features: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.bn1, self.conv1 = BatchNorm(in_features), Convolution(in_features, out_features, 3, rngs=rngs)
        self.bn2, self.prelu = BatchNorm(out_features), PReLU(out_features)
        self.conv2, self.bn3 = Convolution(out_features, out_features, 3, stride, rngs=rngs), BatchNorm(out_features)
        changes = stride != 1 or in_features != out_features
        self.shortcut_conv = Convolution(in_features, out_features, 1, stride, rngs=rngs) if changes else None
        self.shortcut_bn = BatchNorm(out_features) if changes else None

    def __call__(self, x: Array) -> Array:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        if self.shortcut_conv is not None and self.shortcut_bn is not None:
            x = self.shortcut_bn(self.shortcut_conv(x))
        return x + y


class ArcFace(nnx.Module):
    """An `ImageEncoder`: the identity embedding of an aligned face, of unit length.

    Following OFER (section 3.2) all layers are frozen except the last, which is here the fully connected layer and its
    batch norm. Its running statistics are fixed in training too. MICA, which OFER follows, also trains the last stage.
    """

    needs_photo: bool = True

    def __init__(self, config: IResNetConfig = IRESNET50, *, rngs: nnx.Rngs) -> None:
        """Initialise random weights; `models.encoders.load_arcface` loads trained ones."""
        self.config = config
        self.width, self.feature_width = config.width, config.feature_width
        self.conv1, self.bn1 = Convolution(3, config.stem, 3, rngs=rngs), BatchNorm(config.stem)
        self.prelu = PReLU(config.stem)
        stages, before = [], config.stem
        for count, after in zip(config.blocks, config.widths, strict=True):
            blocks = [IResNetBlock(before, after, 2, rngs=rngs)]
            blocks += [IResNetBlock(after, after, 1, rngs=rngs) for _ in range(count - 1)]
            stages.append(nnx.List(blocks))
            before = after
        self.stages = nnx.List(stages)
        self.bn2 = BatchNorm(before)
        self.fc = Linear(config.feature_width, config.width, kind=nnx.Param, rngs=rngs)
        self.fc_bn = BatchNorm(config.width, kind=nnx.Param)

    def __call__(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """Return the embedding (*b, width), of unit length; arguments as `Encoder`."""
        return self.head(self.features(photo, landmarks, visibility))

    def features(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """Return the last feature map (*b, feature_width); arguments as `Encoder`. No gradient passes."""
        return self.features_from_crops(self.crop(photo, landmarks, visibility))

    def crop(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """Crop the aligned face: (*b, S, S, 3) with S = `image_size`, RGB in [0, 1], black outside of the photo."""
        size = self.config.image_size
        return warp(photo, arcface_transform(landmarks, visibility, photo.shape, size), size)

    def features_from_crops(self, crops: Array) -> Array:
        """Return `features` of aligned faces (*b, S, S, 3), RGB in [0, 1]."""
        # (value - 127.5) / 127.5 of 8-bit values.
        x = 2 * crops.reshape(-1, *crops.shape[-3:]) - 1
        x = self.prelu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            for block in stage:
                x = block(x)
        # The last layer's weights expect torch's order, channels first.
        x = rearrange(self.bn2(x), "n h w c -> n (c h w)")
        return jax.lax.stop_gradient(x.reshape(*crops.shape[:-3], self.feature_width))

    def head(self, features: Array) -> Array:
        """Apply the last layer: (*b, feature_width) -> (*b, width), of unit length."""
        x = self.fc_bn(self.fc(features))
        return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
