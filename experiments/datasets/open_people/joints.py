"""Joints and skinning weights from MakeHuman's default rig.

Joints: 0 root (base of neck), 1 neck (the head's pivot), 2 jaw, 3 left eye, 4 right eye; parents [-1, 0, 1, 1, 1].
"""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.geometry import Head
from experiments.datasets.open_people.sources import MPFB, N_BASE, MakeHumanSource

ROOT, NECK, JAW, LEFT_EYE, RIGHT_EYE = range(5)


def rig_weights(source: MakeHumanSource, head: Head) -> np.ndarray:
    """Sum MakeHuman's skinning weights into five joints: (V, 5), rows sum to 1."""
    bones = source.json(MPFB + "rigs/standard/rig.default.json")
    weights = source.json(MPFB + "rigs/standard/weights.default.json")["weights"]

    def is_below(name: str, ancestor: str) -> bool:
        while name:
            if name == ancestor:
                return True
            name = bones[name]["parent"]
        return False

    base = np.zeros((N_BASE, 5))
    for bone, pairs in weights.items():
        if not pairs:
            continue
        ids, values = np.array(pairs, float).T
        if is_below(bone, "jaw"):
            share = {JAW: 1.0}
        elif is_below(bone, "head") or bone == "neck03":
            share = {NECK: 1.0}
        elif bone == "neck02":
            share = {ROOT: 0.35, NECK: 0.65}
        elif bone == "neck01":
            share = {ROOT: 0.8, NECK: 0.2}
        else:
            share = {ROOT: 1.0}
        for joint, part in share.items():
            base[ids.astype(int), joint] += part * values
    out = head.to_head(base)
    out[head.part == 1] = np.eye(5)[LEFT_EYE]
    out[head.part == 2] = np.eye(5)[RIGHT_EYE]
    out = np.maximum(out, 0)
    return out / out.sum(1, keepdims=True)
