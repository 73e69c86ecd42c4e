// The controls beside the stage. They call the handlers; `Panel.show` displays the state.

const $ = (id) => document.getElementById(id);
const nameOf = (head) => (head ? String(head - 1).padStart(2, "0") : "fit");
const mm = (value) => `${value.toFixed(value < 0.995 ? 2 : 1)} mm`;

class Panel {
  /**
   * @param handlers pick(head), between(a, b, t), mode(name), photo(shown), opacity(value), wire(shown),
   *   view(name), play()
   */
  constructor(scene, handlers) {
    this.scene = scene;
    this.count = scene.heads.length;
    $("title").textContent = scene.header.title;
    $("count").textContent = `${this.count - 1} hypothes${this.count === 2 ? "is" : "es"} and the fit`;
    this.makeHeads(handlers);
    this.makeInterpolation(handlers);
    for (const radio of document.querySelectorAll("input[name=mode]")) {
      radio.addEventListener("change", () => handlers.mode(radio.value));
    }
    for (const button of document.querySelectorAll("button[data-view]")) {
      button.addEventListener("click", () => handlers.view(button.dataset.view));
    }
    $("photo").addEventListener("change", () => handlers.photo($("photo").checked));
    $("wire").addEventListener("change", () => handlers.wire($("wire").checked));
    $("opacity").addEventListener("input", () => handlers.opacity(Number($("opacity").value) / 100));
    $("play").addEventListener("click", () => handlers.play());
    $("ramp").style.background = `linear-gradient(to right, ${RAMP.join(", ")})`;
    $("seen-colour").style.background = SEEN;
    $("hidden-colour").style.background = HIDDEN;
  }

  makeHeads(handlers) {
    const best = this.scene.header.scores[0];
    for (let head = 0; head < this.count; head++) {
      const label = $("head-template").content.firstElementChild.cloneNode(true);
      const radio = label.querySelector("input");
      radio.value = head;
      radio.addEventListener("change", () => handlers.pick(head));
      label.querySelector(".name").textContent = nameOf(head);
      const score = head ? this.scene.header.scores[head - 1] - best : null;
      const below = score ? score.toFixed(1).replace("-", "−") : "best";
      label.querySelector(".score").textContent = head ? below : "one head";
      label.title = head
        ? `Hypothesis ${nameOf(head)}: score ${this.scene.header.scores[head - 1].toFixed(1)} nats`
        : "The single fit, from which the hypotheses start";
      radio.setAttribute("aria-label", label.title);
      $("heads").append(label);
    }
  }

  makeInterpolation(handlers) {
    for (const id of ["a", "b"]) {
      for (let head = 0; head < this.count; head++) $(id).add(new Option(nameOf(head), String(head)));
    }
    const report = () => handlers.between(Number($("a").value), Number($("b").value), Number($("slide").value) / 100);
    for (const id of ["a", "b"]) $(id).addEventListener("change", report);
    $("slide").addEventListener("input", report);
  }

  /** Draw thumbnails of all heads. @param paint (head, side) -> a canvas that shows the head */
  paint(paint) {
    const side = Math.round(72 * Math.min(3, window.devicePixelRatio || 1));
    document.querySelectorAll("#heads canvas").forEach((small, head) => {
      small.width = small.height = side;
      small.getContext("2d").drawImage(paint(head, side), 0, 0);
    });
  }

  /**
   * @param state as `window.viewer.state()`
   * @param facts {medians: {seen, hidden}, legendTops: {spread, distance}, decoded, home}; lengths in mm
   */
  show(state, facts) {
    const { a, b, t, mode } = state;
    document.querySelectorAll("#heads input").forEach((radio, head) => {
      radio.checked = head === a;
      radio.closest("label").classList.toggle("chosen", head === a);
    });
    $("a").value = a;
    $("b").value = b;
    $("slide").value = Math.round(100 * t);
    $("slide").setAttribute("aria-valuetext", `${Math.round(100 * t)} % of the way from ${nameOf(a)} to ${nameOf(b)}`);
    $("share").textContent = `${Math.round(100 * t)} %`;
    $("way").textContent = facts.decoded
      ? "The Mesh-VAE decodes latents between theirs."
      : "Straight lines between their vertices: there are no latents between these two.";
    $("play").textContent = state.playing ? "Stop" : "Play";
    $("play").setAttribute("aria-pressed", state.playing);
    document.querySelector(`input[name=mode][value=${mode}]`).checked = true;
    $("photo").checked = state.photo;
    $("wire").checked = state.wire;
    $("opacity").value = Math.round(100 * state.opacity);
    $("opacity-share").textContent = `${Math.round(100 * state.opacity)} %`;
    document.querySelector("button[data-view=photo]").setAttribute("aria-pressed", facts.home);
    this.showLegend(mode, facts);
    this.setCaption(this.caption(state, facts));
  }

  showLegend(mode, facts) {
    const ramp = mode === "spread" || mode === "distance";
    $("legend").hidden = !ramp && mode !== "mask";
    $("legend-ramp").hidden = !ramp;
    $("legend-mask").hidden = mode !== "mask";
    if (ramp) {
      const top = facts.legendTops[mode];
      $("legend-title").textContent = mode === "spread"
        ? `How far apart the ${this.count - 1} hypotheses are`
        : "How far this head is from the fit";
      $("legend-note").textContent = mode === "spread"
        ? "RMS distance of each point from its mean"
        : "distance of each point";
      $("tick-half").textContent = String(top / 2);
      $("tick-top").textContent = `${top} mm or more`;
    } else if (mode === "mask") {
      const seen = this.scene.seen.reduce((sum, value) => sum + value, 0) / this.scene.seen.length;
      $("legend-title").textContent = "What the photo shows of the head";
      $("legend-note").textContent = "";
      $("seen-share").textContent = `seen (${Math.round(100 * seen)} % of the points)`;
      $("hidden-share").textContent = `hidden or turned away (${100 - Math.round(100 * seen)} %)`;
    }
  }

  caption({ a, b, t }, { medians }) {
    const scores = this.scene.header.scores;
    const parts = [];
    if (t > 0 && t < 1 && a !== b) parts.push(`${Math.round(100 * t)} % of the way from ${nameOf(a)} to ${nameOf(b)}`);
    else {
      const head = t >= 1 ? b : a;
      if (head === 0) return "The single fit. The hypotheses agree with it where the photo shows the face.";
      const below = scores[0] - scores[head - 1];
      const rank = head === 1 ? "the best" : `${below.toFixed(1)} below the best`;
      parts.push(`Hypothesis ${nameOf(head)}: score ${scores[head - 1].toFixed(1)} nats, ${rank}`);
    }
    const far = [];
    if (Number.isFinite(medians.seen)) far.push(`${mm(medians.seen)} where the photo shows it`);
    if (Number.isFinite(medians.hidden)) far.push(`${mm(medians.hidden)} where it is hidden`);
    if (far.length) parts.push(`${far.join(", ")} (median distance from the fit)`);
    return `${parts.join("; ")}.`.replace("-", "−");
  }

  setCaption(text) {
    if ($("caption").textContent !== text) $("caption").textContent = text;
  }
}
