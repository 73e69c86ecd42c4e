// Draws the photo, the head over it and its edges with WebGL 2.

class Renderer {
  /** Throws an Error if the browser rejects a shader. */
  constructor(gl, scene, images) {
    this.gl = gl;
    this.scene = scene;
    this.programs = {
      head: createProgram(gl, HEAD_VERTEX, HEAD_FRAGMENT),
      wire: createProgram(gl, WIRE_VERTEX, WIRE_FRAGMENT),
      photo: createProgram(gl, PHOTO_VERTEX, PHOTO_FRAGMENT),
    };
    const count = scene.vertex.length;
    const [position, normal, value] = [3, 3, 1].map((size) => new Float32Array(size * count));
    this.split = { position, normal, value };
    const seen = Float32Array.from(scene.vertex, (v) => scene.seen[v]);
    this.buffers = {};
    this.mesh = gl.createVertexArray();
    gl.bindVertexArray(this.mesh);
    this.addAttribute(0, "position", 3, this.split.position, gl.DYNAMIC_DRAW);
    this.addAttribute(1, "normal", 3, this.split.normal, gl.DYNAMIC_DRAW);
    this.addAttribute(2, "uv", 2, scene.uv, gl.STATIC_DRAW);
    this.addAttribute(3, "seen", 1, seen, gl.STATIC_DRAW);
    this.addAttribute(4, "value", 1, this.split.value, gl.DYNAMIC_DRAW);
    this.triangles = this.createElements(scene.corners);
    this.edges = null;
    this.texture = createTexture(gl, images.texture, false);
    this.photo = createTexture(gl, images.photo, true);
    gl.bindVertexArray(null);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LEQUAL);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  }

  addAttribute(index, name, size, values, usage) {
    const gl = this.gl;
    this.buffers[name] = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
    gl.bufferData(gl.ARRAY_BUFFER, values, usage);
    gl.enableVertexAttribArray(index);
    gl.vertexAttribPointer(index, size, gl.FLOAT, false, 0, 0);
  }

  createElements(indices) {
    const gl = this.gl;
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, Uint32Array.from(indices), gl.STATIC_DRAW);
    return { buffer, count: indices.length };
  }

  /** Upload points and normals (3V), and the values (V) that the colours show. */
  upload(points, normals, values) {
    const { vertex } = this.scene;
    const { position, normal, value } = this.split;
    for (let n = 0; n < vertex.length; n++) {
      const from = 3 * vertex[n];
      for (let k = 0; k < 3; k++) {
        position[3 * n + k] = points[from + k];
        normal[3 * n + k] = normals[from + k];
      }
      value[n] = values[vertex[n]];
    }
    const gl = this.gl;
    for (const name of ["position", "normal", "value"]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, this.split[name]);
    }
  }

  /**
   * @param camera the `Camera`
   * @param settings {mode, top (metres at the ramp's end), photo (opacity), head (opacity), wire, background [r, g, b]}
   */
  draw(camera, settings) {
    const gl = this.gl;
    const width = gl.drawingBufferWidth;
    const height = gl.drawingBufferHeight;
    gl.viewport(0, 0, width, height);
    gl.depthMask(true);
    gl.clearColor(...settings.background, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (settings.photo > 0) this.drawPhoto(camera.photoBox(this.scene.header.photoSize, width, height), settings.photo);
    gl.bindVertexArray(this.mesh);
    const toClip = camera.toClip(width, height);
    const rows = camera.rotation();
    if (settings.head > 0) this.drawHead(toClip, rows, settings);
    if (settings.wire) this.drawWire(toClip, settings);
    gl.bindVertexArray(null);
  }

  drawPhoto(box, alpha) {
    const gl = this.gl;
    const { program, location } = this.programs.photo;
    gl.useProgram(program);
    gl.bindVertexArray(null);
    gl.uniform4fv(location("uBox"), box);
    gl.uniform1f(location("uAlpha"), alpha);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.photo);
    gl.uniform1i(location("uPhoto"), 0);
    gl.depthMask(false);
    gl.enable(gl.BLEND);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    gl.disable(gl.BLEND);
    gl.depthMask(true);
  }

  drawHead(toClip, rows, settings) {
    const gl = this.gl;
    const { program, location } = this.programs.head;
    gl.useProgram(program);
    gl.uniformMatrix4fv(location("uToClip"), false, toClip);
    gl.uniformMatrix3fv(location("uRotation"), false, [0, 1, 2].flatMap((k) => rows.map((row) => row[k])));
    gl.uniform1i(location("uMode"), MODES[settings.mode]);
    gl.uniform1f(location("uTop"), settings.top);
    gl.uniform1f(location("uAlpha"), settings.head);
    gl.uniform3fv(location("uLight"), this.scene.header.light.flat());
    gl.uniform3fv(location("uRamp"), RAMP.flatMap(parseColour));
    gl.uniform3fv(location("uSeen"), parseColour(SEEN));
    gl.uniform3fv(location("uHidden"), parseColour(HIDDEN));
    gl.uniform3fv(location("uClay"), parseColour(CLAY));
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.uniform1i(location("uTexture"), 0);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.triangles.buffer);
    const triangles = () => gl.drawElements(gl.TRIANGLES, this.triangles.count, gl.UNSIGNED_INT, 0);
    if (settings.head < 1) {
      // Depth first, so that only the front of a transparent head is blended over the photo.
      gl.colorMask(false, false, false, false);
      triangles();
      gl.colorMask(true, true, true, true);
      gl.enable(gl.BLEND);
    }
    triangles();
    gl.disable(gl.BLEND);
  }

  drawWire(toClip, settings) {
    const gl = this.gl;
    if (!this.edges) this.edges = this.createElements(listEdges(this.scene.corners));
    const { program, location } = this.programs.wire;
    gl.useProgram(program);
    gl.uniformMatrix4fv(location("uToClip"), false, toClip);
    gl.uniform4f(location("uColour"), 0.04, 0.09, 0.2, 0.55);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.edges.buffer);
    gl.enable(gl.BLEND);
    if (settings.head <= 0) gl.disable(gl.DEPTH_TEST);
    gl.drawElements(gl.LINES, this.edges.count, gl.UNSIGNED_INT, 0);
    gl.enable(gl.DEPTH_TEST);
    gl.disable(gl.BLEND);
  }
}

function createProgram(gl, vertex, fragment) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    const logs = gl.getAttachedShaders(program).map((shader) => gl.getShaderInfoLog(shader));
    throw new Error(`the browser rejected a shader: ${gl.getProgramInfoLog(program)} ${logs.join(" ")}`);
  }
  const locations = new Map();
  const location = (name) => {
    if (!locations.has(name)) locations.set(name, gl.getUniformLocation(program, name));
    return locations.get(name);
  };
  return { program, location };
}

function createTexture(gl, image, isPhoto) {
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  // Texture coordinates of heads have v up; the photo's start at its top.
  gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, !isPhoto);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, image);
  // A head's texture is black between its pieces; mipmaps would darken its seams and outlines.
  if (isPhoto) gl.generateMipmap(gl.TEXTURE_2D);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, isPhoto ? gl.LINEAR_MIPMAP_LINEAR : gl.LINEAR);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  return texture;
}

/** Return each edge of the triangles once, as pairs of indices. */
function listEdges(triangles) {
  const edges = new Map();
  const count = 1 + triangles.reduce((most, index) => Math.max(most, index), 0);
  for (let f = 0; f < triangles.length; f += 3) {
    for (let k = 0; k < 3; k++) {
      const a = triangles[f + k];
      const b = triangles[f + ((k + 1) % 3)];
      edges.set(Math.min(a, b) * count + Math.max(a, b), [a, b]);
    }
  }
  return [...edges.values()].flat();
}
