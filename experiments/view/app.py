"""The page: viser's widgets, and the heads that `explorer` computes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.escaping import html_paragraphs, plain_text
from experiments.results import error_text
from experiments.view.edits import Slider, sliders
from experiments.view.explorer import (
    BETWEEN,
    CLAY,
    COLOURS,
    FIT,
    DrawSettings,
    Explorer,
    HeadSelection,
    ViewedFace,
    ViewError,
    colour_mesh,
    legend,
    photo_plane,
)
from experiments.view.server import ViewerServer, listens_everywhere
from flamejax.io.meshes import glb_bytes
from flamejax.io.results import ResultError

DISTANCE = 1.6
"""Initial distance from the camera to the head, metres: large, since the fit's camera is orthographic."""
HEIGHT = 0.42
"""Metres that the view initially shows from top to bottom, at the head."""
MIN_K, MAX_K = 0.1, 2.0
MIN_N_SIGMA, MAX_N_SIGMA = 1.0, 5.0
MIN_SAMPLES, MAX_SAMPLES = 4, 32
MAX_SEED = 2**32 - 1
TEXT_STYLE = "margin: 0 0 0.5em; padding: 0 0.75em; font-size: 0.875rem; overflow-wrap: anywhere"
"""CSS of the notes."""
GROUPS = ("identity", "expression", "pose")


class App:
    """A page that shows an output folder. All visitors see and change the same state.

    Attributes are the widgets' handles; setting their `value` has the effect of a click or drag.
    """

    def __init__(self, explorer: Explorer, host: str = "127.0.0.1", port: int = 0):
        """Start the server. port: 0 for any free one. Raises: ResultError, no face can be read."""
        self.explorer = explorer
        self.face: ViewedFace = explorer.first_face()
        self.server = ViewerServer(host, port, label="flamejax")
        self._lock = threading.RLock()
        self._drawing = threading.Lock()
        self._update_count = 0
        self._updates_paused = False
        self._add_scene()
        self._add_panel()
        self.edits: dict[str, Any] = {}
        self._show_face()

    @property
    def url(self) -> str:
        """The address of the page."""
        host = self.server.get_host()
        if host == "127.0.0.1" or listens_everywhere(host):
            host = "localhost"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server.get_port()}"

    @property
    def drawing(self) -> bool:
        """Whether hypotheses are being drawn now."""
        return self._drawing.locked()

    def stop(self) -> None:
        """Stop the server."""
        self.server.stop()

    def update(self, _: Any = None) -> None:
        """Show what the widgets select. Of many waiting calls only the last one computes."""
        if self._updates_paused:
            return
        self._update_count += 1
        number = self._update_count
        with self._lock:
            if number == self._update_count:
                self._refresh()

    def selection(self) -> HeadSelection:
        """Return what the widgets select."""
        values = {name: handle.value for name, handle in self.edits.items()}
        names = self.face.hypothesis_names()
        first, second = (names.index(end.value) if end.value in names else 0 for end in (self.first, self.second))
        return HeadSelection(self.choice.value, values, (first, second), float(self.weight.value))

    def draw_settings(self) -> DrawSettings:
        """Return what the widgets select for a draw, within their limits: a visitor's program may send any number."""
        return DrawSettings(
            min(max(float(self.k.value), MIN_K), MAX_K),
            min(max(float(self.n_sigma.value), MIN_N_SIGMA), MAX_N_SIGMA),
            min(max(int(self.samples.value), MIN_SAMPLES), MAX_SAMPLES),
            min(max(int(self.seed.value), 0), MAX_SEED),
        )

    # The widgets.

    def _add_scene(self) -> None:
        scene, vertices = self.server.scene, np.asarray(self.face.fit.vertices)
        scene.set_up_direction("+y")
        middle = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
        self._eye = middle + np.array([0.0, 0.0, DISTANCE])
        camera = self.server.initial_camera
        camera.position, camera.look_at, camera.up = self._eye, middle, np.array([0.0, 1.0, 0.0])
        camera.fov = 2 * float(np.arctan(HEIGHT / 2 / DISTANCE))
        clay = tuple(np.round(255 * np.broadcast_to(CLAY, 3)).astype(int).tolist())
        self.mesh = scene.add_mesh_simple("/head", vertices, np.asarray(self.explorer.head.faces), color=clay)
        """The head in clay."""
        first = glb_bytes(colour_mesh(self.face, self.explorer.head, vertices, COLOURS[1]))
        self.coloured = scene.add_glb("/coloured", first, visible=False)
        """The head in another colour."""
        self._plane: Any = None

    def _add_panel(self) -> None:
        gui = self.server.gui
        self._names = {plain_text(name): name for name in self.explorer.names}
        first = plain_text(self.face.result.name)
        self.photo = gui.add_dropdown("photo", list(self._names), initial_value=first)
        self.image = gui.add_image(np.zeros((8, 8, 3), np.uint8))
        self.choice = gui.add_dropdown("head", [FIT], hint="The fit, one of its hypotheses, or a head between two.")
        self.colour = gui.add_dropdown("colour", COLOURS)
        self.photo_behind = gui.add_checkbox("photo behind", False, hint="The clay head is drawn as wires.")
        self.note = gui.add_html("")
        with gui.add_folder("between two", expand_by_default=False):
            self.first, self.second = gui.add_dropdown("from", ["00"]), gui.add_dropdown("to", ["00"])
            self.weight = gui.add_slider("weight", 0.0, 1.0, 0.01, 0.5)
        with gui.add_folder("diverse"):
            self.k = gui.add_slider("k", MIN_K, MAX_K, 0.1, 0.5)
            self.n_sigma = gui.add_slider("n_sigma", MIN_N_SIGMA, MAX_N_SIGMA, 0.1, 3.0)
            self.samples = gui.add_slider("samples", MIN_SAMPLES, MAX_SAMPLES, 4, 16)
            self.seed = gui.add_number("seed", 0, min=0, max=MAX_SEED, step=1)
            self.draw = gui.add_button("draw")
            self.progress = gui.add_progress_bar(100.0, animated=True, visible=False)
            self.draw_note = gui.add_html("")
        self.reset = gui.add_button("reset the fit's sliders", hint="Back to what was fitted.")
        self._groups: dict[str, Any] = {}
        self.photo.on_update(self._open)
        for handle in (self.choice, self.colour, self.photo_behind):
            handle.on_update(self.update)
        for handle in (self.first, self.second, self.weight):
            handle.on_update(self._select_and_update(BETWEEN))
        self.draw.on_click(self._draw)
        self.reset.on_click(self._reset)

    def _refresh(self) -> None:
        face, colour, problem = self.face, self.colour.value, ""
        try:
            vertices = self.explorer.vertices(face, self.selection())
            in_clay = colour == COLOURS[0]
            with self.server.atomic():
                self.mesh.visible, self.coloured.visible = in_clay, not in_clay
                if in_clay:
                    self.mesh.vertices = vertices
                else:
                    self.coloured.glb_data = glb_bytes(colour_mesh(face, self.explorer.head, vertices, colour))
        except ViewError as error:
            problem = str(error)
        _show_text(self.note, problem, legend(face, colour), face.missing)
        photo_visible = self._plane is not None and self.photo_behind.value
        if self._plane is not None:
            self._plane.visible = photo_visible
        self.mesh.wireframe = photo_visible

    # Callbacks of the widgets.

    def _open(self, _: Any) -> None:
        """Show the photo that was chosen."""
        with self._lock:
            try:
                self.face = self.explorer.face(self._names.get(self.photo.value, self.photo.value))
            except ResultError as error:
                still = f"The previous head is still shown. {error}"
                _show_text(self.note, still, title=f"{self.photo.value} cannot be shown.")
                return
            self._show_face()

    def _show_face(self) -> None:
        """Adapt the widgets to the face, and show it."""
        with self._lock, self._updates_off():
            plane = photo_plane(self.face, self._eye)
            self.image.visible = plane is not None
            if self._plane is not None:
                self._plane.remove()
            self._plane = None
            if plane is not None:
                self.image.image = plane.image
                self._plane = self.server.scene.add_image(
                    "/photo", plane.image, plane.side, plane.side, position=plane.centre, visible=False,
                    wxyz=(0.0, 1.0, 0.0, 0.0), cast_shadow=False, receive_shadow=False,
                )  # fmt: skip
            _set(self.choice, FIT)
            self._list_hypotheses()
            self._make_sliders()
        self.update()

    def _list_hypotheses(self) -> None:
        face = self.face
        self.choice.options = face.choices()
        can_interpolate = BETWEEN in face.choices()
        for handle, index in ((self.first, 0), (self.second, min(1, max(0, face.count - 1)))):
            handle.options = face.hypothesis_names() or ["00"]
            _set(handle, f"{index:02d}")
            handle.disabled = not can_interpolate
        self.weight.disabled = not can_interpolate
        _show_text(self.draw_note, f"{face.count} hypotheses, {face.source}." if face.count else "No hypotheses yet.")

    def _make_sliders(self) -> None:
        for folder in self._groups.values():
            folder.remove()
        self._sliders: list[Slider] = sliders(self.face.model, self.face.fit)
        gui, self.edits = self.server.gui, {}
        self._groups = {group: gui.add_folder(group, expand_by_default=False) for group in GROUPS}
        for each in self._sliders:
            with self._groups[each.group]:
                label = each.name.removeprefix(f"{each.group} ")
                self.edits[each.name] = gui.add_slider(label, each.low, each.high, each.step, each.start)
            self.edits[each.name].on_update(self._select_and_update(FIT))

    def _select_and_update(self, choice: str) -> Callable[[Any], None]:
        """Return a slider's callback, which selects `choice`, the head that the slider changes, and shows it."""

        def callback(_: Any) -> None:
            if self._updates_paused:
                return
            if self.choice.value != choice:
                with self._lock, self._updates_off():
                    _set(self.choice, choice)
            self.update()

        return callback

    def _reset(self, _: Any) -> None:
        with self._lock, self._updates_off():
            for each in self._sliders:
                _set(self.edits[each.name], each.start)
            _set(self.choice, FIT)
        self.update()

    def _draw(self, _: Any) -> None:
        """Draw hypotheses, in the thread of the click; the page stays usable."""
        settings = self.draw_settings()
        if not self._drawing.acquire(blocking=False):
            return
        face, problem = self.face, ""
        self.draw.disabled, self.progress.visible = True, True
        done = threading.Event()
        clock = threading.Thread(target=self._show_elapsed_time, args=(done, settings.num_samples), daemon=True)
        clock.start()
        try:
            self.explorer.draw(face, settings)
        except Exception as error:  # e.g. out of memory; the page stays usable
            problem = str(error) if isinstance(error, ViewError) else error_text(error)
        finally:
            done.set()
            clock.join()
            self.draw.disabled, self.progress.visible = False, False
            self._drawing.release()
        if face is self.face:  # otherwise another photo was chosen meanwhile
            with self._lock, self._updates_off():
                self._list_hypotheses()
                if not problem:
                    _set(self.choice, "00")
            self.update()
        if problem:
            _show_text(self.draw_note, problem, title="Nothing was drawn:")

    def _show_elapsed_time(self, done: threading.Event, count: int) -> None:
        start = time.monotonic()
        while True:
            seconds = time.monotonic() - start
            _show_text(self.draw_note, f"Drawing {count} heads ... {seconds:.0f} s (the first draw compiles)")
            if done.wait(1.0):
                return

    @contextlib.contextmanager
    def _updates_off(self) -> Iterator[None]:
        """Let widgets be set without callbacks; the caller updates at the end."""
        before, self._updates_paused = self._updates_paused, True
        try:
            yield
        finally:
            self._updates_paused = before


def _show_text(note: Any, *paragraphs: str, title: str = "") -> None:
    """Show plain text in a note. viser renders its HTML as it is, so notes are set here only."""
    note.content = html_paragraphs(*paragraphs, title=title, style=TEXT_STYLE)


def _set(handle: Any, value: Any) -> None:
    """Set a widget. (viser's setter hides its own type from mypy.)"""
    handle.value = value
