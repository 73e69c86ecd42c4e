// The viewer: its state, and what each control changes. `window.viewer`, for tests, is `testInterface()`.

class Viewer {
  constructor(scene, images, canvas, gl) {
    Object.assign(this, { scene, images, canvas, gl });
    this.state = {
      a: 1, b: scene.heads.length > 2 ? 2 : 0, t: 0,
      mode: "texture", photo: true, opacity: 1, wire: false, playing: false,
    };
    const length = 3 * scene.header.vertices;
    this.points = new Float32Array(length);
    this.normals = new Float32Array(length);
    this.distances = new Float32Array(length / 3);
    this.legendTops = this.findLegendTops();
    this.camera = new Camera(scene.header, boundsOf(scene.heads));
    this.renderer = new Renderer(gl, scene, images);
    this.frames = 0;
    this.panel = new Panel(scene, {
      pick: (head) => this.pick(head),
      between: (a, b, t) => this.change({ a, b, t, playing: false }),
      mode: (mode) => this.change({ mode }),
      photo: (photo) => this.change({ photo }),
      opacity: (opacity) => this.change({ opacity }),
      wire: (wire) => this.change({ wire }),
      view: (name) => this.lookFrom(name),
      play: () => this.play(),
    });
    this.listen();
    this.repaint();
  }

  /** Draw the thumbnails, for which the canvas is borrowed, then the canvas itself. */
  repaint() {
    this.panel.paint((head, side) => this.drawThumbnail(head, side));
    this.updateShape();
    this.resize();
    this.change({});
  }

  listen() {
    const cameraMoved = () => {
      this.moving = null;
      document.body.classList.add("used");
      this.drawSoon();
    };
    listenToPointers(this.canvas, this.camera, cameraMoved);
    const modes = Object.keys(MODES);
    listenToKeys({
      pick: (head) => this.pick(head),
      step: (by) => this.pick((this.state.a + by + this.scene.heads.length) % this.scene.heads.length),
      orbit: (x, y) => {
        this.camera.orbit((x * Math.PI) / 24, (y * Math.PI) / 24);
        cameraMoved();
      },
      zoom: (by) => {
        const { clientWidth, clientHeight } = this.canvas;
        this.camera.zoomAt(by, clientWidth / 2, clientHeight / 2, clientWidth, clientHeight);
        cameraMoved();
      },
      slide: (by) => this.change({ t: Math.min(1, Math.max(0, this.state.t + by)), playing: false }),
      home: () => this.lookFrom("photo"),
      colour: () => this.change({ mode: modes[(modes.indexOf(this.state.mode) + 1) % modes.length] }),
      wire: () => this.change({ wire: !this.state.wire }),
    });
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    this.watchDensity();
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.repaint());
    this.canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    this.canvas.addEventListener("webglcontextrestored", () => {
      this.renderer = new Renderer(this.gl, this.scene, this.images);
      this.change({});
    });
  }

  /** Upper ends of the legends, in mm: round numbers not below 99 % of the values. */
  findLegendTops() {
    const largest = this.scene.heads.slice(1).map((head) => {
      distances(head, this.scene.heads[0], this.distances);
      return quantile(this.distances, 0.99);
    });
    return {
      spread: roundUp(1e3 * quantile(this.scene.spread, 0.99)),
      distance: roundUp(1e3 * Math.max(...largest)),
    };
  }

  pick(head) {
    if (head >= this.scene.heads.length) return;
    const { a, b } = this.state;
    this.change({ a: head, b: head === b ? a : b, t: 0, playing: false });
  }

  /** Change settings, and update the shape, the panel and the canvas. */
  change(settings) {
    Object.assign(this.state, settings);
    this.updateShape();
    this.updatePanel();
    this.drawSoon();
  }

  updateShape() {
    const { a, b, t, mode } = this.state;
    blend(this.scene, a, b, t, this.points);
    vertexNormals(this.points, this.scene.faces, this.normals);
    distances(this.points, this.scene.heads[0], this.distances);
    this.renderer.upload(this.points, this.normals, mode === "spread" ? this.scene.spread : this.distances);
  }

  updatePanel() {
    const { a, b } = this.state;
    this.panel.show(this.state, {
      medians: medianDistances(this.scene, this.distances),
      legendTops: this.legendTops,
      decoded: a === b ? a > 0 : this.scene.bend(a - 1, b - 1).decoded,
      home: this.isHome(),
    });
  }

  isHome() {
    return Object.keys(HOME).every((key) => Math.abs(this.camera.view[key] - HOME[key]) < 1e-4);
  }

  /** Turn to "photo", "left" or "right" in a third of a second; at once if the user prefers reduced motion. */
  lookFrom(name) {
    const angle = { photo: 0, left: -0.95, right: 0.95 }[name];
    const to = { ...HOME, yaw: angle };
    const from = { ...this.camera.view };
    const reducedMotion = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const began = performance.now();
    const move = (now) => {
      if (this.moving !== move) return;
      const share = reducedMotion ? 1 : Math.min(1, Math.max(0, (now - began) / 330));
      const eased = share * share * (3 - 2 * share);
      for (const key of Object.keys(to)) this.camera.view[key] = from[key] + eased * (to[key] - from[key]);
      this.drawSoon();
      if (share < 1) requestAnimationFrame(move);
      else this.moving = null;
    };
    this.moving = move;
    move(began);
  }

  /** Start or stop moving between A and B, back and forth. */
  play() {
    this.change({ playing: !this.state.playing });
    const began = performance.now() - (Math.acos(1 - 2 * this.state.t) / Math.PI) * 2000;
    const step = (now) => {
      if (!this.state.playing || this.playing !== step) return;
      this.change({ t: 0.5 - 0.5 * Math.cos((Math.PI * Math.max(0, now - began)) / 2000) });
      requestAnimationFrame(step);
    };
    this.playing = step;
    if (this.state.playing) requestAnimationFrame(step);
  }

  // On a screen of another density the size in CSS pixels is the same, so ResizeObserver reports nothing.
  watchDensity() {
    const density = window.matchMedia(`(resolution: ${window.devicePixelRatio || 1}dppx)`);
    const changed = () => {
      this.resize();
      this.watchDensity();
    };
    density.addEventListener("change", changed, { once: true });
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    // At once, since a canvas whose size changes is cleared.
    this.draw();
  }

  drawSoon() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.draw();
    });
  }

  /** The settings of `Renderer.draw`. */
  renderSettings() {
    const { mode, photo, opacity, wire } = this.state;
    // When turned away, photo and head no longer agree: the photo fades, and the complete head is drawn.
    const degrees = (this.camera.angleFromPhoto() * 180) / Math.PI;
    const share = Math.min(1, Math.max(0, (degrees - 4) / 16));
    const shown = photo ? 1 - share * share * (3 - 2 * share) : 0;
    const background = parseColour(getComputedStyle(document.documentElement).getPropertyValue("--stage").trim());
    const top = 1e-3 * (mode === "distance" ? this.legendTops.distance : this.legendTops.spread);
    return { mode, top, photo: shown, head: 1 - shown * (1 - opacity), wire, background };
  }

  draw() {
    this.renderer.draw(this.camera, this.renderSettings());
    document.querySelector("button[data-view=photo]").setAttribute("aria-pressed", this.isHome());
    this.frames++;
  }

  /** Draw one head on the canvas, turned a little and coloured by its distance from the fit. Returns the canvas. */
  drawThumbnail(head, side) {
    const camera = new Camera(this.scene.header, boundsOf(this.scene.heads));
    camera.view.yaw = 0.5;
    this.canvas.width = this.canvas.height = side;
    const points = this.scene.heads[head];
    vertexNormals(points, this.scene.faces, this.normals);
    distances(points, this.scene.heads[0], this.distances);
    this.renderer.upload(points, this.normals, this.distances);
    const mode = head ? "distance" : "clay";
    const top = 1e-3 * this.legendTops.distance;
    this.renderer.draw(camera, { ...this.renderSettings(), mode, top, photo: 0, head: 1, wire: false });
    return this.canvas;
  }

  /** For tests: functions that return the state, the shown vertices, a projected vertex and the colour of a pixel. */
  testInterface() {
    const size = () => [this.canvas.clientWidth, this.canvas.clientHeight];
    return {
      /** {a, b, t, mode, photo, opacity, wire, playing, view, size, frames} */
      state: () => ({ ...this.state, view: { ...this.camera.view }, size: size(), frames: this.frames }),
      /** Shown vertices, metres: [x, y, z, x, ...]. */
      points: () => [...this.points],
      /** A vertex as [x, y, depth]: CSS pixels of the canvas, and metres towards the viewer. */
      project: (vertex) => this.camera.project([...this.points.subarray(3 * vertex, 3 * vertex + 3)], ...size()),
      /** [red, green, blue] at CSS pixels of the canvas, drawn anew. */
      pixel: (x, y) => {
        this.draw();
        const ratio = this.canvas.width / this.canvas.clientWidth;
        const rgba = new Uint8Array(4);
        const { gl } = this;
        const row = this.canvas.height - 1 - Math.floor(y * ratio);
        gl.readPixels(x * ratio, row, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
        return [...rgba.subarray(0, 3)];
      },
    };
  }
}

function showError(text) {
  $("refusal").textContent = text;
  $("refusal").hidden = false;
  document.body.classList.add("refused");
}

async function loadImage(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

async function start() {
  const instead = "Pictures of the heads are in hypotheses/sheet.jpg beside this page, "
    + "and the heads themselves are the files mesh.glb in hypotheses/00, 01, …";
  const canvas = $("canvas");
  const gl = canvas.getContext("webgl2", { alpha: false, antialias: true });
  if (!gl) {
    showError(`This page draws with WebGL 2, which this browser lacks or has switched off. ${instead}`);
    return;
  }
  if (typeof DecompressionStream === "undefined") {
    showError(`This browser is too old for this page (it lacks DecompressionStream). ${instead}`);
    return;
  }
  try {
    const scene = await unpack();
    const [photo, texture] = await Promise.all([scene.header.photo, scene.header.texture].map(loadImage));
    window.viewer = new Viewer(scene, { photo, texture }, canvas, gl).testInterface();
    document.body.classList.add("ready");
  } catch (error) {
    showError(`The heads cannot be shown: ${error.message}. ${instead}`);
    throw error;
  }
}

start();
