"""Runs `flamejax view`: starts the server and waits."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from experiments.command_line import OptionalFile, UsageError, message_console, print_error

if TYPE_CHECKING:
    from experiments.view.app import App

EXIT_OK, EXIT_USAGE, EXIT_INTERRUPTED = 0, 2, 130


@dataclass(frozen=True)
class ViewConfig:
    """Look at results of `flamejax reconstruct` in the browser, and edit the heads.

    Sliders change shape, expression and pose of the fit. Hypotheses can be shown, interpolated and drawn anew.
    Nothing is written to the folder. Exit status: 0, or 2 when the page could not start.
    """

    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder that `flamejax reconstruct --output OUT` wrote."""
    port: int = 8080
    """Port to serve at; 0 for any free one."""
    host: str = "localhost"
    """Address to serve at. localhost: only this machine. 0.0.0.0: anyone on the network, without a password."""
    head: OptionalFile = None
    """Head model of the results; the open head unless given."""
    mesh_vae: OptionalFile = None
    """Mesh-VAE to draw hypotheses from; the shipped one unless given."""
    local: str = "auto"
    """Local models of the results: a file, none, or auto: those that each result names."""


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.view") -> int:
    """Serve until Ctrl-C. Returns the exit status (see `ViewConfig`)."""
    console = message_console()
    config = tyro.cli(ViewConfig, args=None if args is None else list(args), prog=prog)
    try:
        app = start(config, console)
    except UsageError as error:
        print_error(error, console)
        return EXIT_USAGE
    console.print(f"{len(app.explorer.names)} faces of {config.out} at {app.url}  (Ctrl-C stops it)", markup=False)
    return serve(app, console)


def start(config: ViewConfig, console: Console) -> App:
    """Start serving the page, and return it. Raises: UsageError, it cannot be served."""
    if importlib.util.find_spec("viser") is None:
        raise UsageError('the viewer needs viser: pip install "flamejax[view]"')
    address = free_address(config.host, config.port)
    # Late: these imports take seconds, and a wrong call should fail at once.
    from experiments import runtime
    from experiments.results import load_head
    from experiments.view.app import App
    from experiments.view.explorer import Explorer
    from flamejax.io.results import ResultError

    for flag, file in (("--head", config.head), ("--mesh-vae", config.mesh_vae)):
        if file is not None and not file.exists():
            raise UsageError(f"{flag} {file}: no such file.")
    runtime.use_compilation_cache()
    # Browsers open connections that they do not use; websockets reports each with a traceback.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    explorer = Explorer(config.out, *load_head(config.head), config.local, config.mesh_vae)
    for error in explorer.damaged.values():
        console.print(f"damaged: {error}", markup=False)
    console.print("Preparing (the first run compiles) ...")
    try:
        app = App(explorer, *address)
    except ResultError as error:
        raise UsageError(str(error)) from error
    if config.port not in (0, app.server.get_port()):  # taken since the check; viser chose another
        app.stop()
        raise _in_use(config.port)
    return app


def serve(app: App, console: Console, wait: Callable[[float], None] = time.sleep) -> int:
    """Wait for Ctrl-C, then stop the server. wait: `time.sleep`, replaced by tests. Returns the exit status, 0."""
    try:
        while True:
            wait(3600.0)
    except KeyboardInterrupt:
        console.print("\nStopping the server.")
    try:
        app.stop()
        if app.drawing:
            console.print("Waiting for the current draw; Ctrl-C again exits at once.")
        while app.drawing:
            wait(0.1)
    except KeyboardInterrupt:
        os._exit(EXIT_INTERRUPTED)  # sys.exit would wait for the thread that draws
    return EXIT_OK


def free_address(host: str, port: int) -> tuple[str, int]:
    """Return the host and port if the page can be served there.

    viser itself would choose another port, or hang on a wrong host.

    Raises: UsageError, the port is taken or not allowed, or the host is not an address of this machine.
    """
    if not 0 <= port < 2**16:
        raise UsageError(f"--port is between 0 and {2**16 - 1}, not {port}.")
    address = "127.0.0.1" if host == "localhost" else host
    try:
        addresses = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, socket_address in addresses[:1]:
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(socket_address)
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: no such host ({error}).") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _in_use(port) from error
        reason = error.strerror or error
        raise UsageError(f"--host {host} --port {port}: the page cannot be served there ({reason}).") from error
    return address, port


def _in_use(port: int) -> UsageError:
    return UsageError(
        f"--port {port}: in use by another program, such as a viewer that still runs. Give another, such as "
        f"--port {port + 1 if port < 2**16 - 1 else port - 1}, or --port 0 for any free one."
    )
