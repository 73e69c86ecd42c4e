// The controls beside the stage. They hold the user's selection; `Panel.show` displays what is drawn.

const $ = (id) => document.getElementById(id);
const nameOf = (head) => (head ? String(head - 1).padStart(2, "0") : "fit");
const mm = (value) => `${value.toFixed(value < 0.995 ? 2 : 1)} mm`;

class Panel {
  /**
   * @param on what is called: pick(head), between(a, b, t), mode(name), photo(shown), opacity(value), wire(shown),
   *   view(name), play()
   */
  constructor(scene, on) {
    this.scene = scene;
    this.count = scene.heads.length;
    $("title").textContent = scene.header.title;
    $("count").textContent = `${this.count - 1} hypothes${this.count === 2 ? "is" : "es"} and the fit`;
    this.makeHeads(on);
    this.makeWays(on);
    for (const radio of document.querySelectorAll("input[name=mode]")) {
      radio.addEventListener("change", () => on.mode(radio.value));
    }
    for (const button of document.querySelectorAll("button[data-view]")) {
      button.addEventListener("click", () => on.view(button.dataset.view));
    }
    $("photo").addEventListener("change", () => on.photo($("photo").checked));
    $("wire").addEventListener("change", () => on.wire($("wire").checked));
    $("opacity").addEventListener("input", () => on.opacity(Number($("opacity").value) / 100));
    $("play").addEventListener("click", () => on.play());
    $("ramp").style.background = `linear-gradient(to right, ${RAMP.join(", ")})`;
    $("seen-colour").style.background = SEEN;
    $("hidden-colour").style.background = HIDDEN;
  }

  makeHeads(on) {
    const best = this.scene.header.scores[0];
    for (let head = 0; head < this.count; head++) {
      const label = $("head-template").content.firstElementChild.cloneNode(true);
      const radio = label.querySelector("input");
      radio.value = head;
      radio.addEventListener("change", () => on.pick(head));
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

  makeWays(on) {
    for (const id of ["a", "b"]) {
      for (let head = 0; head < this.count; head++) $(id).add(new Option(nameOf(head), String(head)));
    }
    const tell = () => on.between(Number($("a").value), Number($("b").value), Number($("slide").value) / 100);
    for (const id of ["a", "b"]) $(id).addEventListener("change", tell);
    $("slide").addEventListener("input", tell);
  }

  /** Small pictures of all heads. @param paint (head, side) -> a canvas that shows it */
  paint(paint) {
    const side = Math.round(72 * Math.min(3, window.devicePixelRatio || 1));
    document.querySelectorAll("#heads canvas").forEach((small, head) => {
      small.width = small.height = side;
      small.getContext("2d").drawImage(paint(head, side), 0, 0);
    });
  }

  /**
   * @param state as `window.viewer.state()`
   * @param facts {away: {seen, hidden}, tops: {spread, distance}, decoded, home}
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
      ? "As the Mesh-VAE decodes what lies between their latents."
      : "Straight lines between vertices: no latents lie between these two.";
    $("play").textContent = state.playing ? "Stop" : "Play";
    $("play").setAttribute("aria-pressed", state.playing);
    document.querySelector(`input[name=mode][value=${mode}]`).checked = true;
    $("photo").checked = state.photo;
    $("wire").checked = state.wire;
    $("opacity").value = Math.round(100 * state.opacity);
    $("opacity-share").textContent = `${Math.round(100 * state.opacity)} %`;
    document.querySelector("button[data-view=photo]").setAttribute("aria-pressed", facts.home);
    this.showLegend(mode, facts);
    this.say(this.caption(state, facts));
  }

  showLegend(mode, facts) {
    const ramp = mode === "spread" || mode === "distance";
    $("legend").hidden = !ramp && mode !== "mask";
    $("legend-ramp").hidden = !ramp;
    $("legend-mask").hidden = mode !== "mask";
    if (ramp) {
      const top = facts.tops[mode];
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

  caption({ a, b, t }, { away }) {
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
    if (Number.isFinite(away.seen)) far.push(`${mm(away.seen)} where the photo shows it`);
    if (Number.isFinite(away.hidden)) far.push(`${mm(away.hidden)} where not`);
    if (far.length) parts.push(`${far.join(", ")} (median distance from the fit)`);
    return `${parts.join("; ")}.`.replace("-", "−");
  }

  say(text) {
    if ($("caption").textContent !== text) $("caption").textContent = text;
  }
}
