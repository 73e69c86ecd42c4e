"""Compare full-size networks of random weights with PyTorch after conversion (docs/how-to/encoders.md). Run by hand,
with the environment V of make_golden.py.

PYTHONPATH=tests/models/encoders V/bin/python tests/models/encoders/full_size.py write FOLDER   # with PyTorch
PYTHONPATH=. .venv/bin/python tests/models/encoders/full_size.py check FOLDER                    # with JAX
"""

import sys
import time
from pathlib import Path

import numpy as np

IRESNETS = {"iresnet50": (3, 4, 14, 3), "iresnet100": (3, 13, 30, 3)}
COUNT = 2


def write(folder: Path) -> None:
    import torch
    from torch_references import clip_names, outputs, random_clip_tower, random_iresnet

    rng = np.random.default_rng(0)
    crops = rng.uniform(-1, 1, (COUNT, 112, 112, 3)).astype(np.float32)
    for name, blocks in IRESNETS.items():
        net = random_iresnet(0, blocks, (64, 128, 256, 512), 64, 512, 112)
        torch.save(net.state_dict(), folder / f"{name}.pth")
        torch.onnx.export(net, (torch.zeros(1, 3, 112, 112),), folder / f"{name}.onnx", dynamo=False)
        start_time = time.perf_counter()
        output = outputs(net, crops)
        print(name, "torch", f"{(time.perf_counter() - start_time) / COUNT * 1e3:.0f} ms an image")
        output /= np.linalg.norm(output, axis=-1, keepdims=True)
        np.savez(folder / f"{name}.npz", crops=0.5 * (crops + 1), output=output)
    crops = rng.uniform(0, 1, (COUNT, 224, 224, 3)).astype(np.float32)
    net = random_clip_tower(1, 224, 16, 768, 12, 12, 512)
    torch.save({"state_dict": clip_names(net)}, folder / "farl.pth")
    mean = np.float32((0.48145466, 0.4578275, 0.40821073))
    standardized = (crops - mean) / np.float32((0.26862954, 0.26130258, 0.27577711))
    start_time = time.perf_counter()
    output = outputs(net, standardized)
    print("farl torch", f"{(time.perf_counter() - start_time) / COUNT * 1e3:.0f} ms an image")
    np.savez(folder / "farl.npz", crops=crops, output=output)


def check(folder: Path) -> None:
    from flax import nnx

    from models.encoders.convert import read_arcface, read_farl
    from models.encoders.files import load_encoder, write_encoder

    for source in sorted([*folder.glob("*.pth"), *folder.glob("*.onnx")]):
        name = "farl" if source.stem == "farl" else "arcface"
        start_time = time.perf_counter()
        write_encoder(folder / "converted.npz", read_farl(source) if name == "farl" else read_arcface(source))
        converted = time.perf_counter()
        encoder = load_encoder(name, folder / "converted.npz")
        loaded = time.perf_counter()
        expected = np.load(folder / f"{source.stem}.npz")
        run = nnx.jit(lambda encoder, crops: encoder.head(encoder.features_from_crops(crops)))
        output = np.asarray(run(encoder, expected["crops"]))
        compiled = time.perf_counter()
        for _ in range(3):
            run(encoder, expected["crops"]).block_until_ready()
        mean = (time.perf_counter() - compiled) / 3 / COUNT
        error, largest = np.abs(output - expected["output"]).max(), np.abs(expected["output"]).max()
        print(
            f"{source.name}: max |difference| {error:.1e} of outputs up to {largest:.2f}; "
            f"{mean * 1e3:.0f} ms an image; conversion {converted - start_time:.1f} s, "
            f"loading {loaded - converted:.1f} s, "
            f"first run {compiled - loaded:.1f} s"
        )


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2]))
