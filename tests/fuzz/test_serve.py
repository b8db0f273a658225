"""10,000 requests, damaged with a fixed seed, to a service over sockets: answers, none of them 500, and nothing left.

Seven kinds in turn: JSON of inference requests, the same with binary tensors behind it, other header lengths, queries,
pictures, whole requests with their headers, and parameters. Status codes are printed by kind.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fuzzing import HOSTILE, documents, mutations
from service import Service, png, post, read_answer, running
from steered_bundle import steered_bundle
from support import disc

from m2l_runtime import Synthesizer
from m2l_runtime.serve import ServeOptions
from m2l_runtime.serve.app import workshop_of

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("M2L_FUZZ_REQUESTS", "10000"))
KINDS = 7
INFER = "/v2/models/m2l/infer"
MAX_GROWTH_KB = 40_000


def infer_documents(side: int, names: tuple[str, ...], count: int, seed: int) -> Iterator[bytes]:
    mask = disc(side, side / 4, side / 2, side / 2)
    whole = {
        "id": "some",
        "parameters": {"seed": 7, "samples": 2, "names": "a", "appearance": "lesion_L=40"},
        "inputs": [{"name": "mask", "shape": [1, side, side], "datatype": "UINT8", "data": mask.ravel().tolist()}],
        "outputs": [{"name": name, "parameters": {"binary_data": False}} for name in names],
    }
    return documents(whole, count, seed)


def binary_bodies(side: int, count: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """Yield bodies of JSON and tensors, damaged near the JSON, and the length of the JSON as it was."""
    mask = disc(side, side / 4, side / 2, side / 2)
    inputs = [
        {
            "name": "mask",
            "shape": [1, side, side],
            "datatype": "UINT8",
            "parameters": {"binary_data_size": side * side},
        },
        {"name": "seeds", "shape": [1], "datatype": "UINT64", "parameters": {"binary_data_size": 8}},
    ]
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    whole = text + mask.tobytes() + bytes(range(8))
    return ((body, len(text)) for body in mutations([whole], count, seed, head=len(text)))


def queries(count: int, seed: int) -> Iterator[str]:
    random = np.random.default_rng(seed)
    names = ("seed", "sample", "name", "appearance", "format", "quality", "unknown")
    values = [*map(str, HOSTILE), "1", "7", "png", "jpeg", "webp", "90", "lesion_L=35", "ita=tan", '{"lesion_L": 30}']
    for _ in range(count):
        pairs = [
            (names[int(random.integers(len(names)))], values[int(random.integers(len(values)))])
            for _ in range(int(random.integers(0, 5)))
        ]
        text = urllib.parse.urlencode(pairs, errors="replace")[:6000]
        if random.random() < 0.2:
            text = re.sub(
                r"[^!-~]", "", bytes(next(mutations([text.encode() or b"="], 1, len(text)))).decode("latin-1")
            )
        yield text


def requests(side: int, names: tuple[str, ...], count: int) -> Iterator[tuple[str, bytes]]:
    """Yield (kind, the bytes of a request), the kinds in turn."""
    each = -(-count // KINDS)
    picture = png(disc(64, 20, 30, 30))
    whole = [post("/synthesize?seed=3", picture), post(INFER, b"{}"), b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"]
    random = np.random.default_rng(6)
    lengths = (random.integers(-3, 5000) for _ in itertools.count())
    kinds: dict[str, Iterator[bytes]] = {
        "JSON": (post(INFER, body) for body in infer_documents(side, names, each, 1)),
        "tensors": (
            post(INFER, body, f"Inference-Header-Content-Length: {length}")
            for body, length in binary_bodies(side, each, 2)
        ),
        "header lengths": (
            post(INFER, body, f"Inference-Header-Content-Length: {next(lengths)}")
            for body, _ in binary_bodies(side, each, 3)
        ),
        "queries": (post(f"/synthesize?{query}", picture) for query in queries(each, 4)),
        "pictures": (post("/synthesize", body) for body in mutations([picture], each, 5)),
        "whole requests": mutations(whole, each, 7, head=160),
        "parameters": (
            post(INFER, json.dumps({"inputs": [], "parameters": json.loads(body)}).encode())
            for body in documents({"seed": 1, "samples": 1, "appearance": "hair=0"}, each, 8)
            if len(body) < 100_000
        ),
    }
    for bodies in itertools.zip_longest(*kinds.values()):
        yield from ((kind, body) for kind, body in zip(kinds, bodies, strict=True) if body is not None)


def status_of(service: Service, request: bytes) -> int:
    """Ask, and say that nothing more comes; 0: the connection was closed without an answer."""
    with service.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(request)
        return read_answer(connection).status
    return 0


def resident_kb() -> int:
    (line,) = re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(line)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory as Linux does")
def test_serve__damaged_requests_get_answers_and_leave_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    synthesizer = Synthesizer.open(steered_bundle(tmp_path / "bundle").path, backend="fake")
    names = tuple(one.name for one in synthesizer.bundle.manifest.outputs)
    options = ServeOptions(header_timeout_s=0.05, body_timeout_s=0.05, keep_alive_s=1.0)
    counts: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    with running(options, synthesizer) as service:
        warm = 0
        for number, (kind, request) in enumerate(requests(synthesizer.image_size[0], names, COUNT)):
            counts[kind][status_of(service, request)] += 1
            if number == COUNT // 10:
                warm = resident_kb()
        growth_kb = resident_kb() - warm
        assert service.is_well()
        workshop = workshop_of(service.app)
        assert workshop.metrics.value("m2l_requests_under_way") == 0
        assert workshop.batcher.queue_length == workshop.batcher.running_count == 0
        threads = [one.name for one in threading.enumerate() if one.name.startswith("m2l-")]
    total = sum((one for one in counts.values()), collections.Counter())
    with capfd.disabled():
        for kind, of_kind in counts.items():
            print(f"\nfuzz: serve: {kind}: {dict(sorted(of_kind.items()))}", end="")
        print(f"\nfuzz: serve: all {total.total():,}: {dict(sorted(total.items()))}; memory grew by {growth_kb:,} kB")
    assert total.total() >= COUNT * 0.99
    assert not {status for status in total if status >= 500} - {501, 503}
    assert total[503] == 0
    assert total[200] > COUNT / 50
    assert total[400] > COUNT / 10
    assert total[0] < COUNT / 20
    assert growth_kb < MAX_GROWTH_KB
    assert len(threads) <= 1 + options.codec_threads
