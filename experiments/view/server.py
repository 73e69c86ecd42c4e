"""The viewer's server: viser's, which refuses requests from pages of other sites."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import viser
import websockets.asyncio.server
from websockets.datastructures import Headers

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class ViewerServer(viser.ViserServer):
    """viser's server, which checks each request by `refusal`, and never opens viser's public tunnel.

    viser itself answers WebSocket connections of any Origin: any site that the user visits could change the page.
    """

    def __init__(self, host: str, port: int, label: str):
        """Start the server. port: 0 for any free one. Raises: RuntimeError, this viser's requests cannot be checked."""
        with checked_requests(lambda headers: refusal(host, headers)) as started:
            super().__init__(host=host, port=port, label=label, verbose=False)
        if not started:
            self.stop()
            raise RuntimeError(f"viser {viser.__version__} is not supported: its requests cannot be checked.")
        self.gui.configure_theme(show_share_button=False)

    def request_share_url(self, verbose: bool = True) -> None:
        """Do nothing: any visitor can ask viser to publish the page at share.viser.studio."""


@contextlib.contextmanager
def checked_requests(check: Callable[[Headers], str]) -> Iterator[list[str]]:
    """Let servers of `websockets` that start inside the block answer requests with 403 if `check` returns a reason.

    viser has no option for this. Yields a list with an item for each started server.
    """
    original, started = websockets.asyncio.server.serve, []

    def serve(*args: Any, process_request: Any = None, **options: Any) -> Any:
        def checked(connection: Any, request: Any) -> Any:
            if reason := check(request.headers):
                return connection.respond(HTTPStatus.FORBIDDEN, f"{reason}\n")
            return process_request and process_request(connection, request)

        started.append(repr(args[1:]))
        return original(*args, process_request=checked, **options)

    setattr(websockets.asyncio.server, "serve", serve)  # noqa: B010  (an assignment to a class, for mypy)
    try:
        yield started
    finally:
        setattr(websockets.asyncio.server, "serve", original)  # noqa: B010


def refusal(host: str, headers: Headers) -> str:
    """Return why a server at `host` refuses a request, or "" if it accepts it.

    The Host header must be this machine's loopback address or `host`, against DNS rebinding; any will do if the server
    listens at all addresses. The Origin header, which browsers send, must be that same host: another page must not
    connect.
    """
    hosts, origins = headers.get_all("Host"), [origin.lower() for origin in headers.get_all("Origin")]
    if len(hosts) != 1:
        return "The request needs one Host header."
    address = hosts[0].lower()
    accepted = (*LOCAL_HOSTS, host.lower(), f"[{host.lower()}]")
    if not listens_everywhere(host) and re.sub(r":\d+$", "", address) not in accepted:
        return "This address is not the viewer's. Open the address that flamejax view printed, or give it as --host."
    if origins and origins not in ([f"http://{address}"], [f"https://{address}"]):
        return "The viewer answers only its own page."
    return ""


def listens_everywhere(host: str) -> bool:
    """Return whether a server at `host` listens at all addresses of the machine."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return not host
