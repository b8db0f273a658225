"""Over real sockets: clients that send too slowly, too much, half, or two ways to read it, get words or an end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from service import DEADLINE_S, Service, pixels, png, post, read_answer, running
from steered_bundle import steered_bundle
from support import TINY_BUNDLE, disc

from m2l_runtime import Synthesizer
from m2l_runtime.errors import ArgumentError, OutputError
from m2l_runtime.serve import ServeOptions, create_app, serve
from m2l_runtime.serve.app import workshop_of
from m2l_runtime.serve.server import is_loopback, listen, make_server

pytestmark = pytest.mark.once

PNG = png(disc())
METRICS = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANY = "0.0.0.0"  # noqa: S104 - to be refused
CHUNKED = b"POST /synthesize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
QUICK = ServeOptions(
    header_timeout_s=0.5,
    body_timeout_s=0.5,
    keep_alive_s=0.5,
    max_connections=20,
    max_body_bytes=1 << 20,
    allowed_hosts=("localhost",),
)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running(QUICK) as one:
        yield one


@pytest.fixture(autouse=True)
def still_well(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did to the service, it still makes images."""
    yield
    if "service" in request.fixturenames:
        assert request.getfixturevalue("service").is_well()


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side closes it, sooner or later."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True


def test_serve__images_come_over_kept_and_pipelined_connections(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(post("/synthesize?seed=1", PNG) + post("/synthesize?seed=2", PNG))
        first, second = read_answer(connection), read_answer(connection)
        assert (first.status, second.status) == (200, 200)
        assert pixels(first.body).shape == (256, 256, 3)
        connection.sendall(post("/synthesize?seed=1", PNG))
        assert read_answer(connection).body == first.body
        assert "server" not in first.headers


def test_serve__chunked_bodies_and_expectations_are_understood(service: Service) -> None:
    start = CHUNKED.replace(b" HTTP", b"?seed=1 HTTP")
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in (PNG[:50], PNG[50:]))
    expected = service.ask(post("/synthesize?seed=1", PNG)).body
    assert service.ask(start + b"\r\n" + chunks + b"0\r\n\r\n").body == expected
    with service.connect() as connection:
        connection.sendall(post("/synthesize?seed=1", PNG, "Expect: 100-continue").removesuffix(PNG))
        assert connection.recv(25).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(PNG)
        assert read_answer(connection).body == expected


SMUGGLED = {
    "both": CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "two lengths in one": b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4, 5\r\n\r\nabcde",
    "length of a sign": b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: +4\r\n\r\nabcd",
    "length below 0": b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: -4\r\n\r\nabcd",
    "length in hexadecimal": b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x4\r\n\r\nabcd",
    "another encoding": b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "encodings": b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "encoding twice": b"POST /v2 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "encoding in 1.0": b"POST /v2 HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nContent-Length : 4\r\n\r\nabcd",
    "no name": b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n",
    "zero in a name": b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX\0: x\r\n\r\n",
    "a bare return": b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n",
    "two hosts": b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n",
    "no host": b"GET /v2 HTTP/1.1\r\n\r\n",
    "no host in 1.0": b"GET /v2 HTTP/1.0\r\n\r\n",
    "a whole address": b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a proxy's method": b"CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a zero byte": b"GET /v2%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "spaces": b"GET  /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/0.9": b"GET /v2\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a1030374b7") + b"\r\n\r\n",
    "a chunk of no size": CHUNKED + b"\r\nzz\r\n",
    "a chunk below 0": CHUNKED + b"\r\n-1\r\nab\r\n",
    "a huge chunk": CHUNKED + b"\r\n" + b"f" * 40 + b"\r\n",
}


@pytest.mark.parametrize("request_bytes", SMUGGLED.values(), ids=SMUGGLED)
def test_serve__what_two_servers_may_read_two_ways_is_refused_and_closed(
    service: Service, request_bytes: bytes
) -> None:
    with service.connect() as connection:
        connection.sendall(request_bytes)
        answer = read_answer(connection)
        assert answer.status in (400, 404, 501, 413), answer
        assert answer.error
        assert answer.headers["connection"] == "close"
        assert is_closed(connection)


def test_serve__a_request_hidden_in_the_body_of_another_is_not_answered(service: Service) -> None:
    hidden = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    both = (
        b"POST /v2/models/m2l/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden
    )
    with service.connect() as connection:
        connection.sendall(both)
        assert read_answer(connection).status == 400
        assert connection.recv(100) == b""


def test_serve__headers_without_end_are_refused(service: Service) -> None:
    answer = service.ask(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
    assert (answer.status, answer.error) == (431, "the headers are too long")


@pytest.mark.parametrize(
    "start", [b"GET /v2", b"GET /" + b"x" * 20_000, b"GET /v2?" + b"x" * 20_000], ids=["fields", "path", "query"]
)
def test_serve__long_headers_that_come_at_once_are_refused_as_those_that_trickle(
    service: Service, start: bytes
) -> None:
    many = b"" if len(start) > 10 else b"A: b\r\n" * 6_000
    answer = service.ask(start + b" HTTP/1.1\r\nHost: localhost\r\n" + many + b"\r\n")
    assert (answer.status, "too long" in answer.error, answer.headers["connection"]) == (431, True, "close")


def test_serve__headers_that_come_too_slowly_are_refused(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: loc")
        answer = read_answer(connection)
        assert (answer.status, "headers did not arrive within 0.5 s" in answer.error) == (408, True)
        assert is_closed(connection)


def test_serve__a_trickle_of_headers_does_not_buy_time(service: Service) -> None:
    with service.connect() as connection:
        connection.settimeout(0.05)
        got = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /v2 HTTP/1.1\r\n")
            for number in range(400):
                connection.sendall(b"X%d: x\r\n" % number)
                with contextlib.suppress(TimeoutError):
                    got += connection.recv(4096)
                    break
        assert b" 408 " in got


def test_serve__a_second_request_that_trickles_is_refused_as_the_first(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answer(connection).status == 200
        connection.sendall(b"GET /v2 HT")
        assert read_answer(connection).status == 408


def test_serve__silent_and_idle_connections_are_closed(service: Service) -> None:
    with service.connect() as silent, service.connect() as idle:
        idle.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answer(idle).status == 200
        assert is_closed(idle)
        assert is_closed(silent)


def test_serve__a_body_that_does_not_come_is_not_waited_for(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(post("/synthesize", PNG)[:-20])
        answer = read_answer(connection)
        assert (answer.status, "did not arrive within 0.5 s" in answer.error) == (408, True)
        assert is_closed(connection)


def test_serve__bodies_that_are_sent_slowly_keep_nobody_out(service: Service) -> None:
    workshop = workshop_of(service.app)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(service.connect()) for _ in range(workshop.max_requests + 2)]
        for connection in slow:
            connection.sendall(post("/synthesize", PNG)[:-20])
        with service.connect() as connection:
            connection.sendall(post("/synthesize", PNG))
            assert read_answer(connection).status == 200
        assert {read_answer(connection).status for connection in slow} == {408}


def test_serve__bodies_are_read_of_so_many_clients_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop_of(service.app), "max_receiving", 1)
    with service.connect() as slow, service.connect() as connection:
        slow.sendall(post("/synthesize", PNG)[:-20])
        time.sleep(0.1)
        connection.sendall(post("/synthesize", PNG))
        answer = read_answer(connection)
        assert (answer.status, "1 requests are under way" in answer.error) == (503, True)
        assert read_answer(slow).status == 408


def test_serve__a_body_cut_off_by_the_client_is_forgotten(service: Service) -> None:
    metrics = workshop_of(service.app).metrics
    for half_close in (False, True):
        before = metrics.value("m2l_requests_total", route="/synthesize", method="POST", status="499")
        with service.connect() as connection:
            connection.sendall(post("/synthesize", PNG)[:-20])
            if half_close:
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(4096) == b""
        while metrics.value("m2l_requests_total", route="/synthesize", method="POST", status="499") == before:
            time.sleep(0.01)
        assert metrics.value("m2l_requests_under_way") == 0


@pytest.mark.parametrize("announced", [True, False])
def test_serve__an_upload_without_end_is_refused_and_not_read(service: Service, announced: bool) -> None:
    start = b"POST /synthesize HTTP/1.1\r\nHost: localhost\r\n"
    length = b"Content-Length: 2147483648\r\n\r\n" if announced else b"Transfer-Encoding: chunked\r\n\r\n"
    sent, part = 0, bytes(65536)
    with service.connect() as connection:
        connection.sendall(start + length)
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.settimeout(5)
            while sent < 64 << 20:
                connection.sendall(part if announced else b"10000\r\n" + part + b"\r\n")
                sent += len(part)
                if sent >= 4 << 20 and sent % (1 << 20) == 0:
                    time.sleep(0.05)
        assert sent < 64 << 20, "all of it was read"
        with contextlib.suppress(ConnectionError):
            answer = read_answer(connection)
            assert (answer.status, "no more are read" in answer.error) == (413, True)


def test_serve__a_length_beyond_the_limit_is_refused_before_the_body(service: Service) -> None:
    answer = service.ask(b"POST /synthesize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048577\r\n\r\n")
    assert (answer.status, "more than 1,048,576 bytes" in answer.error) == (413, True)


def test_serve__a_client_that_sends_all_of_too_much_reads_why_and_goes_on() -> None:
    with running(ServeOptions(max_body_bytes=1 << 20)) as service, service.connect() as connection:
        connection.sendall(post("/synthesize", bytes(3 << 20)))
        assert read_answer(connection).status == 413
        connection.sendall(post("/synthesize", PNG))
        assert read_answer(connection).status == 200


def test_serve__a_client_that_does_not_read_is_not_waited_for(service: Service) -> None:
    metrics = workshop_of(service.app).metrics
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.port))
        for seed in range(60):
            with contextlib.suppress(ConnectionError):
                connection.sendall(post(f"/synthesize?seed={seed}", PNG))
        connection.settimeout(DEADLINE_S)
        assert metrics.value("m2l_requests_under_way") <= 1
        time.sleep(1.0)
        with contextlib.suppress(ConnectionError):
            while connection.recv(1 << 20):
                pass
    assert metrics.value("m2l_requests_under_way") == 0


def test_serve__one_connection_too_many_is_told_and_closed(service: Service) -> None:
    with contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(service.connect()) for _ in range(30)]
        refused = 0
        for connection in open_ones:
            with contextlib.suppress(ConnectionError):
                answer = read_answer(connection)
                refused += answer.status == 503
                assert answer.status in (408, 503)
        assert refused >= 10


def test_serve__an_upgrade_is_not_made(service: Service) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
    assert service.ask(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n").status == 200


def test_serve__forwarded_addresses_are_not_believed(
    service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "m2l.serve")
    service.ask(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil\r\n\r\n")
    while not (records := [one for one in caplog.records if one.message == "request"]):
        time.sleep(0.01)
    assert records[0].m2l_fields["client"] == "127.0.0.1"  # type: ignore[attr-defined]


# The command


class Program:
    """`m2l serve` in a process of its own."""

    def __init__(self, *arguments: object, stderr: Any = subprocess.PIPE) -> None:
        code = "from m2l_runtime.cli.main import main; main()"
        port = () if "--port" in arguments else ("--port", 0)
        words = ["serve", *arguments, *port, "--backend", "fake"]
        self.process = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stderr=stderr)
        self.lines: list[str] = []
        self.port = 0
        if stderr is subprocess.PIPE:
            self.port = int(self.wait_for(r"serving at http://[0-9.]+:(\d+)"))

    def wait_for(self, pattern: str) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode())
            found = re.search(pattern, self.lines[-1])
            if found:
                return found[1] if found.groups() else found[0]
        raise AssertionError(f"it ended without {pattern}: {self.lines}")

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_serve__sigterm_finishes_what_is_under_way_and_ends_with_status_0(tmp_path: Path) -> None:
    steered_bundle(tmp_path / "bundle")
    with Program(tmp_path / "bundle") as program:
        service = Service(None, program.port)  # type: ignore[arg-type]
        before = service.ask(post("/synthesize", PNG))
        manifest = (tmp_path / "bundle" / "manifest.json").read_text()
        (tmp_path / "bundle" / "manifest.json").write_text("{}")
        program.process.send_signal(signal.SIGHUP)
        assert "not reloaded" in program.wait_for('"event": "kept".*')
        assert service.ask(post("/synthesize", PNG)).body == before.body
        (tmp_path / "bundle" / "manifest.json").write_text(manifest)
        program.process.send_signal(signal.SIGHUP)
        program.wait_for('"event": "reloaded"')
        assert service.ask(post("/synthesize", PNG)).body == before.body
        with service.connect() as connection:
            connection.sendall(post("/synthesize", PNG)[:-20])
            while b"m2l_requests_under_way 1.0" not in service.ask(METRICS).body:
                pass
            program.process.send_signal(signal.SIGTERM)
            program.wait_for('"event": "stopping"')
            with pytest.raises(OSError, match="refused"):
                service.connect()
            connection.sendall(PNG[-20:])
            assert read_answer(connection).body == before.body
        assert program.process.wait(DEADLINE_S) == 0
        events = [json.loads(line) for line in program.lines if line.startswith("{")]
        assert {"ready", "request", "kept", "reloaded", "stopping"} <= {one["event"] for one in events}


def test_serve__signals_while_a_bundle_is_opened_open_it_once_more() -> None:
    opened: list[int] = []
    gate = threading.Event()

    def reopen() -> Synthesizer:
        opened.append(len(opened))
        assert gate.wait(DEADLINE_S)
        return Synthesizer.open(backend="fake")

    async def main() -> None:
        server: Any = make_server(create_app(Synthesizer.open(backend="fake"), reopen=reopen))
        server._start_reload()
        while not opened:
            await asyncio.sleep(0.001)
        server._start_reload()
        server._start_reload()
        gate.set()
        while server._reloads:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))
    assert opened == [0, 1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_serve__a_log_that_cannot_be_written_is_not_the_end() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Path("/dev/full").open("wb") as full, Program("--port", port, stderr=full) as program:
        service = Service(None, port)  # type: ignore[arg-type]
        for _ in range(300):
            with contextlib.suppress(OSError):
                if service.is_well():
                    break
            time.sleep(0.1)
        assert service.is_well()
        program.process.terminate()
        assert program.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--host", ANY), 2, "can be reached from other machines"),
        (("--host", "192.0.2.1", "--insecure"), 1, "cannot listen at 192.0.2.1"),
        (("--host", "no such name.invalid", "--insecure"), 1, "cannot listen at"),
        (("--port", "70000"), 2, "a port is between 0 and 65535"),
        (("--max-queue", "0"), 2, "max_queue must be between 1"),
        (("--model-name", "../x"), 2, "model_name must be"),
        (("--allow-origin", "site.example"), 2, "an origin is http"),
        (("--token-file", "absent.txt"), 1, "absent.txt: No such file"),
        (("absent-bundle",), 1, "absent-bundle does not exist"),
    ],
)
def test_serve_command__what_is_wrong_is_told_before_anything_is_served(
    m2l: CommandLine,
    arguments: tuple[str, ...],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    port = () if "--port" in arguments else ("--port", 0)
    outcome = m2l("serve", *arguments, *port, "--backend", "fake")
    assert outcome.code == code
    assert message in outcome.err


@pytest.mark.parametrize(
    ("content", "message"), [(b"short\n", "at least 16"), (b"\xff" * 20, "holds no token in ASCII"), (b"", "0 char")]
)
def test_serve_command__a_token_that_is_none_is_refused(
    m2l: CommandLine, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_bytes(content)
    outcome = m2l("serve", "--token-file", tmp_path / "token", "--port", 0, "--backend", "fake")
    assert (outcome.code, message in outcome.err) == (1, True)


def test_serve_command__a_port_in_use_is_told(m2l: CommandLine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = m2l("serve", TINY_BUNDLE, "--port", taken.getsockname()[1], "--backend", "fake")
    assert outcome.code == 1
    assert "give --port another one" in outcome.err


def test_serve__only_addresses_of_this_machine_need_no_token() -> None:
    assert [is_loopback(one) for one in ("localhost", "127.9.9.9", "::1")] == [True] * 3
    others = (ANY, "::", "192.168.0.1", "127.1", "localhost.evil.example", "")
    assert [is_loopback(one) for one in others] == [False] * 6
    with pytest.raises(ArgumentError, match="can be reached from other machines"):
        serve(lambda: pytest.fail("opened"), host=ANY)
    with pytest.raises(OutputError, match="cannot listen"):
        listen("192.0.2.1", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="counts memory as Linux does")
def test_serve__idle_connections_cost_little_memory() -> None:
    """A thousand of them under 50 MB; a hundred here, with room for what the first ones allocate."""

    def resident_kb() -> int:
        (line,) = re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
        return int(line)

    with running(ServeOptions()) as service, contextlib.ExitStack() as stack:
        service.ask(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        before = resident_kb()
        for _ in range(100):
            connection = stack.enter_context(service.connect())
            connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_answer(connection).status == 200
        assert resident_kb() - before < 5_000


def test_serve__pictures_are_those_of_a_call() -> None:
    with running() as service:
        mask = disc()
        first = service.ask(post("/synthesize?seed=4", png(mask)))
        again = service.ask(post("/synthesize?seed=4", png(mask)))
        other = service.ask(post("/synthesize?seed=5", png(mask)))
    assert first.body == again.body
    assert not np.array_equal(pixels(first.body), pixels(other.body))


def test_serve__a_token_opens_another_address_and_the_names_that_are_allowed(tmp_path: Path) -> None:
    """As examples/service runs it."""
    token = "0123456789abcdef-of-a-test"  # noqa: S105 - of tests
    (tmp_path / "token.txt").write_text(f"{token}\n")
    with Program(*("--host", ANY, "--token-file", tmp_path / "token.txt", "--allow-host", "m2l")) as program:
        service = Service(None, program.port)  # type: ignore[arg-type]
        health = "GET /v2/health/ready HTTP/1.1\r\nHost: {}\r\n\r\n"
        metrics = "GET /metrics HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\r\n"
        assert service.ask(health.format("127.0.0.1").encode()).status == 200
        assert service.ask(metrics.format("m2l:8000", token).encode()).status == 200
        assert service.ask(metrics.format("m2l:8000", "wrong").encode()).status == 401
        assert service.ask(metrics.format("other:8000", token).encode()).status == 421
