"use strict";
// Reads the header and arrays that scene.py packed into the page.

/** Return {header, heads ([Float32Array(3V)], the fit first), bend(i, j), seen, spread, faces, corners, vertex, uv}. */
async function unpack() {
  const header = JSON.parse(document.getElementById("scene").textContent);
  const text = document.getElementById("arrays").textContent.trim();
  const zipped = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const arrays = {};
  for (const name of Object.keys(header.arrays)) arrays[name] = readArray(bytes, header.arrays[name]);
  return {
    header,
    heads: readHeads(header, arrays.heads),
    bend: readBends(header, arrays.bends),
    seen: arrays.seen,
    spread: arrays.spread,
    faces: arrays.faces,
    corners: arrays.corners,
    vertex: arrays.vertex,
    uv: arrays.uv,
  };
}

const TYPES = {
  int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, uint32: Uint32Array,
  float32: Float32Array,
};

/** Read an array, whose bytes are sorted by significance: the lowest of all values first. */
function readArray(bytes, { type, count, offset }) {
  const values = new TYPES[type](count);
  const size = values.BYTES_PER_ELEMENT;
  const target = new Uint8Array(values.buffer);
  for (let byte = 0; byte < size; byte++) {
    const plane = offset + byte * count;
    for (let k = 0; k < count; k++) target[k * size + byte] = bytes[plane + k];
  }
  return values;
}

/** Convert grid steps to metres. All heads but the fit are stored as differences from it, modulo 2^16. */
function readHeads(header, steps) {
  const length = 3 * header.vertices;
  const heads = [];
  const sum = new Int16Array(1);
  for (let h = 0; h <= header.heads; h++) {
    const metres = new Float32Array(length);
    for (let k = 0; k < length; k++) {
      sum[0] = steps[h * length + k] + (h ? steps[k] : 0);
      metres[k] = header.centre[k % 3] + header.step * sum[0];
    }
    heads.push(metres);
  }
  return heads;
}

/**
 * Return (i, j) -> {decoded, step, values}: whether hypotheses i and j have a decoded midpoint, and its deviation from
 * the straight line, step * values in metres (no step: the deviation is negligible). -1 is the fit.
 */
function readBends(header, values) {
  const length = 3 * header.vertices;
  const bends = new Map();
  const count = Math.round((1 + Math.sqrt(1 + 8 * header.bendSteps.length)) / 2);
  let pair = 0;
  let index = 0;
  for (let i = 0; i < count; i++) {
    for (let j = i + 1; j < count; j++) {
      const step = header.bendSteps[pair++];
      if (step) bends.set(i * count + j, { step, values: values.subarray(index * length, ++index * length) });
    }
  }
  return (i, j) => {
    const low = Math.min(i, j);
    const high = Math.max(i, j);
    if (low < 0 || high >= count || low === high) return { decoded: false };
    return { decoded: true, ...bends.get(low * count + high) };
  };
}
