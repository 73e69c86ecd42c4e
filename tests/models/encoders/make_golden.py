"""Write tiny ArcFace and FaRL files with random weights, and PyTorch's outputs for them.

    python3 -m venv V && V/bin/pip install torch==2.13.0 transformers onnx numpy
    PYTHONPATH=tests/models/encoders V/bin/python tests/models/encoders/make_golden.py

Writes golden/: arcface.pth (as MICA nests it, with DataParallel's prefix), arcface.onnx (batch norms folded by the
exporter), arcface_unfused.onnx, farl.pth (with a text tower), and expected.npz.
"""

from pathlib import Path

import numpy as np
import torch
from torch_references import clip_names, outputs, random_clip_tower, random_iresnet

GOLDEN = Path(__file__).parent / "golden"
IRESNET = {"blocks": (1, 2, 1, 1), "widths": (8, 8, 16, 16), "stem": 8, "width": 24, "image_size": 32}
VIT = {"image_size": 32, "patch_size": 8, "hidden": 32, "layers": 2, "heads": 2, "width": 24}
CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def main() -> None:
    rng = np.random.default_rng(0)
    crops = rng.uniform(0, 1, (2, 32, 32, 3)).astype(np.float32)
    arcface = random_iresnet(0, **IRESNET)
    state = {f"module.{name}": value for name, value in arcface.state_dict().items()}
    momentum = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2, 3)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"arcface": state, "opt": momentum, "epoch": 1}, GOLDEN / "arcface.pth")
    for name, training in (("arcface.onnx", "EVAL"), ("arcface_unfused.onnx", "PRESERVE")):
        mode = getattr(torch.onnx.TrainingMode, training)
        torch.onnx.export(
            arcface, (torch.zeros(1, 3, 32, 32),), GOLDEN / name, dynamo=False, training=mode, opset_version=17,
            do_constant_folding=training == "EVAL",
        )  # fmt: skip
    embedding = outputs(arcface, (crops * 255 - 127.5) / 127.5)
    farl = random_clip_tower(1, **VIT)
    state = clip_names(farl) | {"positional_embedding": torch.zeros(3, 4), "logit_scale": torch.zeros(())}
    torch.save({"state_dict": state, "epoch": 16}, GOLDEN / "farl.pth")
    standard = (crops - np.float32(CLIP_MEAN)) / np.float32(CLIP_DEVIATION)
    np.savez(
        GOLDEN / "expected.npz", crops=crops,
        arcface=embedding / np.linalg.norm(embedding, axis=-1, keepdims=True), farl=outputs(farl, standard),
    )  # fmt: skip
    for file in sorted(GOLDEN.iterdir()):
        print(file.name, file.stat().st_size)


if __name__ == "__main__":
    main()
