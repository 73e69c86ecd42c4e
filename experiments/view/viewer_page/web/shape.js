// Interpolation between heads, normals and distances. Head 0 is the fit, head k is hypothesis k - 1.

/** v(t) = (1 - t) a + t b + 4 t (1 - t) c, written into `out` (3V): c is the midpoint's deviation from the line. */
function blend(scene, a, b, t, out) {
  const first = scene.heads[a];
  const second = scene.heads[b];
  for (let k = 0; k < out.length; k++) out[k] = first[k] + t * (second[k] - first[k]);
  const { step, values } = scene.bend(a - 1, b - 1);
  const weight = 4 * t * (1 - t) * (step || 0);
  if (weight) for (let k = 0; k < out.length; k++) out[k] += weight * values[k];
}

/** Unit vertex normals, triangles weighted by their area, written into `out` (3V). */
function vertexNormals(points, faces, out) {
  out.fill(0);
  for (let f = 0; f < faces.length; f += 3) {
    const a = 3 * faces[f];
    const b = 3 * faces[f + 1];
    const c = 3 * faces[f + 2];
    const ux = points[b] - points[a], uy = points[b + 1] - points[a + 1], uz = points[b + 2] - points[a + 2];
    const vx = points[c] - points[a], vy = points[c + 1] - points[a + 1], vz = points[c + 2] - points[a + 2];
    const nx = uy * vz - uz * vy, ny = uz * vx - ux * vz, nz = ux * vy - uy * vx;
    for (const k of [a, b, c]) {
      out[k] += nx;
      out[k + 1] += ny;
      out[k + 2] += nz;
    }
  }
  for (let k = 0; k < out.length; k += 3) {
    const length = Math.hypot(out[k], out[k + 1], out[k + 2]) || 1;
    out[k] /= length;
    out[k + 1] /= length;
    out[k + 2] /= length;
  }
}

/** Distance of each vertex from the same vertex of another head, metres, written into `out` (V). */
function distances(points, other, out) {
  for (let v = 0; v < out.length; v++) {
    const k = 3 * v;
    out[v] = Math.hypot(points[k] - other[k], points[k + 1] - other[k + 1], points[k + 2] - other[k + 2]);
  }
}

/** [low, high] of each axis over all heads. */
function boundsOf(heads) {
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  for (const head of heads) {
    for (let k = 0; k < head.length; k++) {
      low[k % 3] = Math.min(low[k % 3], head[k]);
      high[k % 3] = Math.max(high[k % 3], head[k]);
    }
  }
  return { low, high };
}

/** Value below which a share of the values lies; NaN if there are none. */
function quantile(values, share) {
  const sorted = Float32Array.from(values).sort();
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : NaN;
}

/** Round length in millimetres at which a legend may end: the first one not below `millimetres`. */
function roundUp(millimetres) {
  const marks = [0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100];
  return marks.find((mark) => mark >= millimetres) || Math.ceil(millimetres / 100) * 100 || 100;
}

/** Medians of a head's distances from the fit (V, metres) in mm, over visible and over hidden vertices. */
function medianDistances(scene, values) {
  const of = (seen) => 1e3 * quantile(values.filter((_, v) => (scene.seen[v] !== 0) === seen), 0.5);
  return { seen: of(true), hidden: of(false) };
}
