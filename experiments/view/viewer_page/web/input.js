// Mouse, touch and keyboard on the stage.

const RADIANS_PER_PIXEL = 0.008;

/** Dragging turns; with Shift, the right button or two fingers it moves; wheel and pinch zoom. */
function listenToPointers(canvas, camera, changed) {
  const pointers = new Map();
  const size = () => [canvas.clientWidth, canvas.clientHeight];
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    canvas.classList.add("dragging");
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = at(event);
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    if (pointers.size === 2) {
      const [, other] = [...pointers].find(([id]) => id !== event.pointerId);
      const distance = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      camera.zoomAt(distance(now) / distance(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2, ...size());
      camera.pan(dx / 2, dy / 2, ...size());
    } else if (event.shiftKey || event.buttons & 6) {
      camera.pan(dx, dy, ...size());
    } else {
      camera.orbit(dx * RADIANS_PER_PIXEL, dy * RADIANS_PER_PIXEL);
    }
    pointers.set(event.pointerId, now);
    changed();
  });
  for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) {
    canvas.addEventListener(kind, (event) => {
      pointers.delete(event.pointerId);
      if (!pointers.size) canvas.classList.remove("dragging");
    });
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    // deltaY is in pixels, lines or pages.
    const pixels = event.deltaY * [1, 16, 400][event.deltaMode];
    camera.zoomAt(Math.exp(-0.0016 * Math.max(-400, Math.min(400, pixels))), ...at(event), ...size());
    changed();
  }, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
}

/**
 * Handle keys anywhere on the page, except those that the focused control uses itself.
 * @param actions {pick(head), step(by), orbit(x, y), zoom(by), slide(by), home(), colour(), wire()}
 */
function listenToKeys(actions) {
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const letters = {
    f: () => actions.pick(0),
    p: () => actions.home(),
    c: () => actions.colour(),
    w: () => actions.wire(),
    "+": () => actions.zoom(1.2),
    "=": () => actions.zoom(1.2),
    "-": () => actions.zoom(1 / 1.2),
    "[": () => actions.slide(-0.1),
    "]": () => actions.slide(0.1),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const arrow = arrows[event.key];
    if (arrow) {
      if (event.target.matches("input")) return;
      if (event.shiftKey) actions.orbit(...arrow);
      else actions.step(arrow[0] + arrow[1]);
    } else if (/^[0-9]$/.test(event.key)) {
      actions.pick(1 + Number(event.key));
    } else if (letters[event.key.toLowerCase()]) {
      letters[event.key.toLowerCase()]();
    } else {
      return;
    }
    event.preventDefault();
  });
}
