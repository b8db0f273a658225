"""Run a service: sockets, signals, the log, the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any, Final, cast

import uvicorn
from starlette.applications import Starlette

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import ArgumentError, M2LError, OutputError
from m2l_runtime.serve.app import create_app, reload_bundle, workshop_of
from m2l_runtime.serve.logs import log_event, log_exception, set_up_logs
from m2l_runtime.serve.options import LOOPBACK_HOSTS, MAX_HEADER_BYTES, ServeOptions
from m2l_runtime.serve.protocol import limited_protocol
from m2l_runtime.serve.work import Workshop
from m2l_runtime.synthesizer import Synthesizer

_ANY_ADDRESS: Final = ("0.0.0.0", "::")  # noqa: S104 - to tell that somebody asks for it
_SPARE_FILES: Final = 128
"""Files that a process opens beside its connections."""


@check_types()
def serve(
    open_synthesizer: Callable[[], Synthesizer],
    options: ServeOptions | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    is_insecure: bool = False,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGTERM or SIGINT; what is under way then is finished first. SIGHUP opens the bundle again.

    Example:
        >>> serve(lambda: Synthesizer.open(), host="0.0.0.0")
        Traceback (most recent call last):
        m2l_runtime.errors.ArgumentError: 0.0.0.0 can be reached from other machines, and no token is asked for; ...

    Args:
        open_synthesizer: opens what is served, now and at each SIGHUP.
        options: what is taken, and how much of it.
        host: address to listen at. Any but that of the machine itself needs a token, or `is_insecure`.
        port: 1 to 65535; 0: any that is free.
        is_insecure: listen at any address without a token.
        on_ready: called with the service's address once it takes requests.

    Raises:
        ArgumentError: the port is out of range, or the address is open to others and no token is asked for.
        OutputError: the address cannot be listened at.
        BundleError, EngineError: the bundle cannot be used.
    """
    options = options or ServeOptions()
    if not 0 <= port <= 65535:
        raise ArgumentError(f"a port is between 0 and 65535, got {port}")
    if options.token is None and not is_insecure and not is_loopback(host):
        raise ArgumentError(
            f"{printable(host)} can be reached from other machines, and no token is asked for; give --token-file, or "
            "--insecure if whatever stands before it asks"
        )
    options = replace(options, allowed_hosts=_hosts(host, options))
    set_up_logs()
    raise_file_limit(options.max_connections + _SPARE_FILES)
    with contextlib.closing(listen(host, port)) as listener:
        address = address_of(listener)
        app = create_app(open_synthesizer(), options, reopen=open_synthesizer)
        make_server(app, lambda: on_ready(address)).run(sockets=[listener])
        log_event("stopped")


def make_server(app: Starlette, on_ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Make a server of an application of :func:`m2l_runtime.serve.create_app`, within the limits of its options.

    Args:
        app: the application.
        on_ready: called once requests are taken.
    """
    workshop = workshop_of(app)
    options = workshop.options
    config = uvicorn.Config(
        app,
        http=limited_protocol(options),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=min(options.max_connections, 4096),
        timeout_keep_alive=cast(int, options.keep_alive_s),  # which goes to call_later
        timeout_graceful_shutdown=max(1, round(options.drain_s)),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    return _Server(config, workshop, on_ready)


def _hosts(host: str, options: ServeOptions) -> tuple[str, ...]:
    """Add the address that is listened at to the names that a Host header may have."""
    name = f"[{host}]" if ":" in host else host
    own = () if host in _ANY_ADDRESS else (name,)
    return tuple(dict.fromkeys((*options.allowed_hosts, *own)))


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone.

    Example:
        >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("::1"), is_loopback("0.0.0.0")
        (True, True, True, False)
    """
    if host in LOOPBACK_HOSTS or host == "::1":
        return True
    try:
        return socket.inet_aton(host)[0] == 127 and host.count(".") == 3
    except OSError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens.

    Raises:
        OutputError: there is no such address here, or another program listens there.
    """
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(kind, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OutputError(f"cannot listen at {printable(host)}: {error}; give --host another address") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OutputError(
            f"cannot listen at {printable(host)} port {port}: {error.strerror or error}; give --port another one"
        ) from None
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the address of a socket as a browser takes it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def raise_file_limit(count: int) -> None:
    """Let the process open so many files, as far as it may."""
    try:
        import resource
    except ImportError:  # where there is no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """Run uvicorn with signals of our own: the first stops it in order, and the process ends with status 0."""

    def __init__(self, config: uvicorn.Config, workshop: Workshop, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._workshop, self._on_ready = workshop, on_ready
        self._reloads: set[asyncio.Task[None]] = set()
        self._is_outdated = False
        """Whether a signal came while the bundle was opened, so that it is opened once more."""
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests, and say so."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        bundle = self._workshop.holder.current.synthesizer.bundle
        log_event("ready", bundle=bundle.manifest.name, sha256=bundle.sha256)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and finish those under way."""
        self._workshop.holder.is_ready = False
        for server in self.servers:
            server.close()
        log_event("stopping", under_way=self._workshop.batcher.queue_length + self._workshop.batcher.running_count)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP within the block; off the main thread there are no signals."""
        handlers = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop}
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = self._reload
        before: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # not the main thread
            for number, handler in handlers.items():
                before[number] = signal.signal(number, handler)
        try:
            yield
        finally:
            for changed, former in before.items():
                signal.signal(changed, former)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.should_exit = True

    def _reload(self, number: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._start_reload)

    def _start_reload(self) -> None:
        if self.should_exit:
            return
        if self._reloads:
            self._is_outdated = True  # what is being opened may be what was there before
        else:
            self._is_outdated = False
            task = asyncio.get_running_loop().create_task(self._reload_bundle())
            self._reloads.add(task)
            task.add_done_callback(self._on_reloaded)

    def _on_reloaded(self, task: asyncio.Task[None]) -> None:
        self._reloads.discard(task)
        if self._is_outdated:
            self._start_reload()

    async def _reload_bundle(self) -> None:
        try:
            await reload_bundle(self._workshop)
        except M2LError as error:
            log_event("kept", logging.ERROR, message=f"not reloaded, the bundle before is served on: {error}")
        except Exception as error:  # noqa: BLE001 - the service goes on
            log_exception("kept", error)
        else:
            bundle = self._workshop.holder.current.synthesizer.bundle
            log_event("reloaded", bundle=bundle.manifest.name, sha256=bundle.sha256)
