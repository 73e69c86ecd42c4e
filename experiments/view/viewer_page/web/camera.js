// The orthographic camera of the fit, and the view: turned, moved and zoomed by the user.
// Pixels of the photo = scale * (x, -y) + translation, of points turned about the middle of the head.

const HOME = { yaw: 0, pitch: 0, zoom: 1, panX: 0, panY: 0 };
const MIN_ZOOM = 0.15;
const MAX_ZOOM = 30;
const MARGIN = 1.16;

class Camera {
  constructor(header, bounds) {
    this.scale = header.scale;
    this.pivot = bounds.low.map((low, k) => (low + bounds.high[k]) / 2);
    this.size = bounds.low.map((low, k) => bounds.high[k] - low);
    this.radius = 0.6 * Math.hypot(...this.size);
    const [x, y] = this.pivot;
    this.pivotPixel = [header.translation[0] + this.scale * x, header.translation[1] - this.scale * y];
    this.view = { ...HOME };
  }

  /** Screen pixels per photo pixel in a stage of width x height, before zooming: the whole head fits in. */
  baseScale(width, height) {
    const [w, h] = this.size;
    return Math.min(width / (MARGIN * this.scale * w), height / (MARGIN * this.scale * h));
  }

  /** Rows of the rotation from world to view directions. */
  rotation() {
    const { yaw, pitch } = this.view;
    const cy = Math.cos(yaw), sy = Math.sin(yaw), cp = Math.cos(pitch), sp = Math.sin(pitch);
    return [[cy, 0, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]];
  }

  /** Angle from the photo's direction of view, radians. */
  angleFromPhoto() {
    return Math.acos(Math.min(1, Math.max(-1, Math.cos(this.view.yaw) * Math.cos(this.view.pitch))));
  }

  /** Photo pixels -> stage: [factor, x, y] with stage = factor * pixel + (x, y). */
  toStage(width, height) {
    const factor = this.baseScale(width, height) * this.view.zoom;
    const { panX, panY } = this.view;
    return [
      factor,
      width / 2 - factor * (this.pivotPixel[0] + panX),
      height / 2 - factor * (this.pivotPixel[1] + panY),
    ];
  }

  /** World point -> [x, y] in the stage, and metres towards the viewer. */
  project(point, width, height) {
    const [factor, x, y] = this.toStage(width, height);
    const rows = this.rotation();
    const d = point.map((value, k) => value - this.pivot[k]);
    const along = (row) => row[0] * d[0] + row[1] * d[1] + row[2] * d[2];
    const u = this.pivotPixel[0] + this.scale * along(rows[0]);
    const v = this.pivotPixel[1] - this.scale * along(rows[1]);
    return [factor * u + x, factor * v + y, along(rows[2])];
  }

  /** Column-major 4 x 4 from world to clip coordinates. */
  toClip(width, height) {
    const [factor, x, y] = this.toStage(width, height);
    const rows = this.rotation();
    const sx = (2 * factor * this.scale) / width;
    const sy = (2 * factor * this.scale) / height;
    const sz = -1 / (1.1 * this.radius + 1e-9);
    const moved = (row) => -(row[0] * this.pivot[0] + row[1] * this.pivot[1] + row[2] * this.pivot[2]);
    const atX = (2 * (factor * this.pivotPixel[0] + x)) / width - 1;
    const atY = 1 - (2 * (factor * this.pivotPixel[1] + y)) / height;
    const [r0, r1, r2] = rows;
    return new Float32Array([
      sx * r0[0], sy * r1[0], sz * r2[0], 0,
      sx * r0[1], sy * r1[1], sz * r2[1], 0,
      sx * r0[2], sy * r1[2], sz * r2[2], 0,
      sx * moved(r0) + atX, sy * moved(r1) + atY, sz * moved(r2), 1,
    ]);
  }

  /** The photo's corners in clip coordinates: left, top, right, bottom. */
  photoBox(photoSize, width, height) {
    const [factor, x, y] = this.toStage(width, height);
    return [
      (2 * x) / width - 1, 1 - (2 * y) / height,
      (2 * (factor * photoSize[0] + x)) / width - 1, 1 - (2 * (factor * photoSize[1] + y)) / height,
    ];
  }

  /** Turn by radians. */
  orbit(byYaw, byPitch) {
    const limit = Math.PI / 2 - 0.02;
    this.view.yaw = ((this.view.yaw + byYaw + 3 * Math.PI) % (2 * Math.PI)) - Math.PI;
    this.view.pitch = Math.min(limit, Math.max(-limit, this.view.pitch + byPitch));
  }

  /** Move by pixels of the stage. */
  pan(dx, dy, width, height) {
    const [factor] = this.toStage(width, height);
    this.view.panX -= dx / factor;
    this.view.panY -= dy / factor;
  }

  /** Zoom by a factor about (x, y) of the stage. */
  zoomAt(by, x, y, width, height) {
    const zoom = Math.min(MAX_ZOOM, Math.max(MIN_ZOOM, this.view.zoom * by));
    const [before] = this.toStage(width, height);
    this.view.zoom = zoom;
    const [after] = this.toStage(width, height);
    this.view.panX += (x - width / 2) * (1 / before - 1 / after);
    this.view.panY += (y - height / 2) * (1 / before - 1 / after);
  }
}
