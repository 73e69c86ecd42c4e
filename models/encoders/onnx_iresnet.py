"""Read iResNet's weights from an ONNX model by following its graph, whatever the names of its tensors.

If an exporter folded a batch norm into the convolution before it, that norm becomes one that only adds the bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flamejax.head import HeadFileError
from models.encoders.layers import EPSILON

_NO_OPS = ("Identity", "Dropout", "Cast")
"""Operations that do not change their input."""


def read_onnx(path: Path) -> dict[str, np.ndarray]:
    """Return the weights by their names in arcface_torch's state dictionary.

    Raises:
      ImportError: the package onnx is not installed.
      HeadFileError: the file is not an ONNX model, or not of an iResNet.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            f"{path}: reading ONNX models needs the package onnx: pip install 'flamejax[encoders]'. "
            "PyTorch's .pth files need nothing."
        ) from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf raises many types
        raise HeadFileError(f"{path}: no readable ONNX model, or cut off ({error}). Fetch it again.") from error
    return _GraphReader(graph, path).read_iresnet()


class _GraphReader:
    """Follows a graph from the photo to the embedding, and collects the weights of its operations.

    Methods named after layers read the weights of a layer, and return the name of its output tensor.
    """

    def __init__(self, graph: Any, path: Path) -> None:
        self.path, self.weights = path, dict[str, np.ndarray]()
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.consumers: dict[str, list[Any]] = {}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute:
                self.constants[node.output[0]] = node.attribute[0].t
            # Exporters use these operations to share equal constants and to add axes to slopes.
            elif node.op_type in ("Identity", "Unsqueeze") and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
            else:
                for name in set(node.input):
                    self.consumers.setdefault(name, []).append(node)
        inputs = [entry.name for entry in graph.input if entry.name not in self.constants]
        if len(inputs) != 1:
            self.fail(f"has {len(inputs)} inputs")
        self.start = inputs[0]

    def read_iresnet(self) -> dict[str, np.ndarray]:
        """Return the weights of all layers by their names in arcface_torch's state dictionary."""
        x = self.prelu(self.convolution(self.start, "conv1", "bn1", 1), "prelu")
        stage = index = 0
        while any(node.op_type in ("Conv", "Add") for node in self.consumers_of(x)):
            first = any(node.op_type == "Conv" for node in self.consumers_of(x))
            stage, index = (stage + 1, 0) if first else (stage, index + 1)
            x = self.block(x, f"layer{stage}.{index}.", first)
        x = self.batch_norm(self.node(x, "BatchNormalization"), "bn2")
        x = self.node(x, "Flatten", "Reshape").output[0]
        x = self.linear(self.node(x, "Gemm", "MatMul"))
        if any(node.op_type == "BatchNormalization" for node in self.consumers_of(x)):
            self.batch_norm(self.node(x, "BatchNormalization"), "features")
        else:
            self.identity_norm("features", len(self.weights["fc.weight"]))
        return self.weights

    def block(self, x: str, prefix: str, first: bool) -> str:
        """Read a residual block. The first of a stage halves the image and has a convolution in its shortcut."""
        y = self.batch_norm(self.node(x, "BatchNormalization"), f"{prefix}bn1")
        y = self.prelu(self.convolution(y, f"{prefix}conv1", f"{prefix}bn2", 1), f"{prefix}prelu")
        stride = 2 if first else 1
        y = self.convolution(y, f"{prefix}conv2", f"{prefix}bn3", stride)
        if first:
            x = self.convolution(x, f"{prefix}downsample.0", f"{prefix}downsample.1", stride)
        add = self.node(y, "Add")
        if set(add.input) != {self.skip_no_ops(x), self.skip_no_ops(y)}:
            self.fail(f"adds something else than an iResNet's branches ({prefix.rstrip('.')})")
        return add.output[0]

    def convolution(self, x: str, name: str, norm: str, stride: int) -> str:
        """Read a convolution and the batch norm after it, which may be folded into it."""
        node = self.node(x, "Conv")
        weight = self.constant(node, 1, 4)
        if (self.attribute(node, "strides", (1, 1)), self.attribute(node, "group", 1)) != ((stride, stride), 1):
            self.fail(f"has another stride or group at {name} than an iResNet")
        if self.attribute(node, "pads", (0,) * 4) != ((weight.shape[-1] - 1) // 2,) * 4:
            self.fail(f"has another padding at {name} than an iResNet")
        self.weights[f"{name}.weight"] = weight
        bias = self.constant(node, 2, 1) if len(node.input) > 2 else np.zeros(len(weight), np.float32)
        x = node.output[0]
        norms = [node for node in self.consumers_of(x) if node.op_type == "BatchNormalization"]
        if norms:
            x = self.batch_norm(norms[0], norm)
            self.weights[f"{norm}.running_mean"] = self.weights[f"{norm}.running_mean"] - bias
        else:
            self.identity_norm(norm, len(weight))
            self.weights[f"{norm}.bias"] = bias
        return x

    def batch_norm(self, node: Any, name: str) -> str:
        """Read a batch norm. If its epsilon differs from ours, the variance absorbs the difference."""
        for index, part in enumerate(("weight", "bias", "running_mean", "running_var"), start=1):
            self.weights[f"{name}.{part}"] = self.constant(node, index, 1)
        epsilon = self.attribute(node, "epsilon", EPSILON)
        self.weights[f"{name}.running_var"] = self.weights[f"{name}.running_var"] + np.float32(epsilon - EPSILON)
        return node.output[0]

    def identity_norm(self, name: str, width: int) -> None:
        """Set a batch norm to the identity."""
        zeros, ones = np.zeros(width, np.float32), np.ones(width, np.float32)
        values = (ones, zeros, zeros, ones * np.float32(1 - EPSILON))
        for part, value in zip(("weight", "bias", "running_mean", "running_var"), values, strict=True):
            self.weights[f"{name}.{part}"] = value

    def prelu(self, x: str, name: str) -> str:
        node = self.node(x, "PRelu")
        self.weights[f"{name}.weight"] = self.constant(node, 1, None).reshape(-1)
        return node.output[0]

    def linear(self, node: Any) -> str:
        """Read the fully connected layer, which is a Gemm, or a MatMul and an Add."""
        weight = self.constant(node, 1, 2)
        transposed = node.op_type == "Gemm" and self.attribute(node, "transB", 0)
        self.weights["fc.weight"] = weight if transposed else weight.T
        x, bias = node.output[0], np.zeros(len(self.weights["fc.weight"]), np.float32)
        if node.op_type == "MatMul" and any(consumer.op_type == "Add" for consumer in self.consumers_of(x)):
            node = self.node(x, "Add")
            bias = self.constant(node, 0 if node.input[0] in self.constants else 1, 1)
            x = node.output[0]
        elif len(node.input) > 2:
            bias = self.constant(node, 2, 1)
        self.weights["fc.bias"] = bias
        return x

    def skip_no_ops(self, x: str) -> str:
        """Return the tensor after any operations that do not change `x`."""
        consumers = self.consumers.get(x, [])
        while len(consumers) == 1 and consumers[0].op_type in _NO_OPS:
            x = consumers[0].output[0]
            consumers = self.consumers.get(x, [])
        return x

    def consumers_of(self, x: str) -> Sequence[Any]:
        """Return the operations that use a tensor, skipping those that do not change it."""
        return self.consumers.get(self.skip_no_ops(x), [])

    def node(self, x: str, *kinds: str) -> Any:
        """Return the operation of one of these kinds that uses a tensor."""
        for node in self.consumers_of(x):
            if node.op_type in kinds:
                return node
        actual = ", ".join(node.op_type for node in self.consumers_of(x)) or "the end"
        return self.fail(f"has {actual} where an iResNet has {' or '.join(kinds)}")

    def constant(self, node: Any, index: int, axes: int | None) -> np.ndarray:
        """Return an operation's constant input number `index` as float32. axes: required number of axes; None: any."""
        from onnx import numpy_helper

        tensor = self.constants.get(node.input[index]) if index < len(node.input) else None
        if tensor is None or tensor.external_data:
            self.fail(f"lacks the weights of a {node.op_type}, or keeps them in another file")
        try:
            array = np.asarray(numpy_helper.to_array(tensor), np.float32)
        except (ValueError, TypeError) as error:
            self.fail(f"has damaged weights ({error})")
        if axes is not None and array.ndim != axes:
            self.fail(f"has weights of {array.ndim} axes in a {node.op_type}")
        return array

    def attribute(self, node: Any, name: str, default: Any) -> Any:
        from onnx import helper

        for attribute in node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return tuple(value) if isinstance(default, tuple) else value
        return default

    def fail(self, what: str) -> Any:
        raise HeadFileError(
            f"{self.path}: not the ONNX model of an iResNet (it {what}). Wanted: insightface's recognition model, such "
            "as w600k_r50.onnx or glint360k_r100.onnx, not its detector."
        )
