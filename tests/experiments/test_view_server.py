"""The viewer's server: who may connect, and what a visitor's own program can do. Clients are raw WebSockets."""

import json
import shutil
import socket
import threading

import msgspec
import pytest
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from experiments.view.explorer import DrawSettings, Explorer
from tests.experiments.fakes import HEAD, IDENTITY

viser = pytest.importorskip("viser", reason="viser is not installed: pip install 'flamejax[view]'")
from experiments.view.server import ViewerServer, listens_everywhere, refusal  # noqa: E402

LOCAL, ANY = "127.0.0.1", "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "requested", "origin", "is_accepted"),
    [
        (LOCAL, "localhost:8080", None, True),  # not a browser, or a page's first request
        (LOCAL, "127.0.0.1:8080", "http://127.0.0.1:8080", True),
        (LOCAL, "LocalHost:8080", "http://localhost:8080", True),
        (LOCAL, "[::1]:8080", "http://[::1]:8080", True),
        (LOCAL, "localhost:9000", "http://localhost:9000", True),  # an SSH tunnel
        (LOCAL, "localhost", "https://localhost", True),  # behind a proxy
        (LOCAL, "localhost:8080", "http://evil.example", False),
        (LOCAL, "localhost:8080", "http://localhost:3000", False),  # another server of this machine
        (LOCAL, "localhost:8080", "http://127.0.0.1:8080", False),
        (LOCAL, "localhost:8080", "null", False),  # a file or a sandboxed frame
        (LOCAL, "localhost:8080", "", False),
        (LOCAL, "localhost:8080", "file://localhost:8080", False),
        (LOCAL, "evil.example:8080", "http://evil.example:8080", False),  # DNS rebinding
        (LOCAL, "evil.example:8080", None, False),
        (LOCAL, "localhost:8080@evil.example", None, False),
        (LOCAL, "localhost.evil.example", None, False),
        (LOCAL, "192.168.0.7:8080", None, False),
        ("192.168.0.7", "192.168.0.7:8080", "http://192.168.0.7:8080", True),
        ("192.168.0.7", "localhost:8080", None, True),
        ("192.168.0.7", "192.168.0.8:8080", None, False),
        ("My-Machine", "my-machine:8080", "http://my-machine:8080", True),
        ("fe80::1", "[fe80::1]:8080", "http://[fe80::1]:8080", True),
        (ANY, "my-machine:8080", "http://my-machine:8080", True),
        ("::", "192.168.0.7:8080", None, True),
        (ANY, "my-machine:8080", "http://evil.example:8080", False),
    ],
)
def test_host_and_origin_are_checked(host, requested, origin, is_accepted):
    headers = Headers({"Host": requested} | ({} if origin is None else {"Origin": origin}))
    assert (refusal(host, headers) == "") == is_accepted


def test_missing_and_repeated_headers_are_refused():
    assert refusal(ANY, Headers()) and refusal(ANY, Headers([("Host", "a"), ("Host", "a")]))
    assert refusal(LOCAL, Headers([("Host", "localhost"), *[("Origin", "http://localhost")] * 2]))
    assert [listens_everywhere(host) for host in (ANY, "::", "", LOCAL, "localhost")] == [True] * 3 + [False] * 2


@pytest.fixture(scope="module", params=[LOCAL, ANY])
def server(request):
    server = ViewerServer(request.param, 0, "test")
    server.gui.add_dropdown("choice", ["a", "b"])
    yield server
    server.stop()


def visit(server, origin: str | None, host: str | None = None):
    """Open a WebSocket as viser's page does. host: another name in the Host header."""
    port, protocol = server.get_port(), f"viser-v{viser.__version__}"
    address = host or f"127.0.0.1:{port}"
    connection = socket.create_connection(("127.0.0.1", port))
    return connect(f"ws://{address}", sock=connection, origin=origin, subprotocols=[protocol], max_size=None)


def test_own_page_and_plain_clients_are_served(server):
    for origin in (f"http://127.0.0.1:{server.get_port()}", None):
        with visit(server, origin) as client:
            assert client.recv(timeout=10)


def test_other_sites_are_refused(server):
    for origin in ("http://evil.example", "null", f"http://localhost:{server.get_port()}", "http://127.0.0.1"):
        with pytest.raises(InvalidStatus) as refused:
            visit(server, origin)
        assert refused.value.response.status_code == 403


def test_other_host_names_are_refused_unless_all_addresses_are_served(server):
    host = f"evil.example:{server.get_port()}"
    if server.get_host() == ANY:
        visit(server, f"http://{host}", host).close()
        return
    for origin in (f"http://{host}", None):
        with pytest.raises(InvalidStatus):
            visit(server, origin, host)
    with socket.create_connection(("127.0.0.1", server.get_port())) as plain:  # the page itself
        plain.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert plain.recv(100).startswith(b"HTTP/1.1 403")


def test_visitors_cannot_publish_the_page(server, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("viser opened a tunnel")

    monkeypatch.setattr("viser._viser.ViserTunnel", refuse)
    asked, real = threading.Event(), server.request_share_url
    monkeypatch.setattr(server, "request_share_url", lambda: (real(), asked.set()))
    with visit(server, None) as client:
        client.send(msgspec.msgpack.encode({"type": "ShareUrlRequest"}))
        assert asked.wait(10)
    assert server._share_tunnel is None


def test_a_viser_that_cannot_be_checked_is_refused(monkeypatch):
    import websockets.asyncio.server as module

    real = module.serve
    monkeypatch.setattr("viser.infra._infra.websockets", Renamed(real))
    with pytest.raises(RuntimeError, match="its requests cannot be checked"):
        ViewerServer(LOCAL, 0, "test")
    assert module.serve is real


class Renamed:
    """Stands for `websockets` in a viser that reaches `serve` in another way."""

    def __init__(self, serve):
        import websockets

        module = type("server", (), {"serve": staticmethod(serve), "ServerConnection": object})
        self.asyncio = type("asyncio", (), {"server": module})
        self.exceptions, self.datastructures = websockets.exceptions, websockets.datastructures


@pytest.fixture
def app(made, tmp_path):
    from experiments.view.app import App

    shutil.copytree(made[0] / "a", tmp_path / "out" / "a")
    shutil.copytree(made[0] / "b", tmp_path / "outside")
    app = App(Explorer(tmp_path / "out", HEAD, IDENTITY, mesh_vae=made[1][1]))
    yield app
    app.stop()


def test_values_that_the_page_does_not_offer_are_refused(app):
    app.photo.value = "../outside"
    assert "there is no face" in app.note.content and app.face.result.folder.name == "a"
    app.k.value, app.n_sigma.value, app.samples.value, app.seed.value = 1e9, -1.0, 10**12, -5
    assert app.draw_settings() == DrawSettings(2.0, 1.0, 32, 0)
    app.first.value = app.second.value = "-99"
    assert app.selection().ends == (0, 0)


def test_folders_with_undecodable_names_are_shown(made, tmp_path):
    from experiments.view.app import App

    shutil.copytree(made[0] / "a", tmp_path / "a")
    shutil.copytree(made[0] / "b", tmp_path / "b\udcff")
    app = App(Explorer(tmp_path, HEAD, IDENTITY, mesh_vae=made[1][1]))
    try:
        with visit(app.server, None) as client:
            assert client.recv(timeout=10)
        assert app.photo.options == ("a", r"b\udcff")
        app.photo.value = r"b\udcff"
        assert app.face.result.folder.name == "b\udcff"
    finally:
        app.stop()


def test_notes_are_escaped(app):
    metrics = json.loads((app.explorer.folder / "a" / "metrics.json").read_text())
    app.face.missing = f"the photo <img src=x onerror=alert(1)>{metrics['photo']}"
    app.update()
    assert "<img" not in app.note.content and "&lt;img src=x onerror=alert(1)&gt;" in app.note.content
