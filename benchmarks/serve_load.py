"""Load a service with `hey` (or a program like it) in a process of its own, and compare with the engine alone.

    python benchmarks/serve_load.py --hey PATH [--bundle BUNDLE] [--seconds 8] [--rounds 3] --out results.jsonl
    python benchmarks/serve_load.py plot results.jsonl docs/serving-load.png

Measured: images/s of the engine alone and of the saturated service in turn; the latency of single requests, at half
load and at four times the load that it can take, of those let in and of those refused; memory; 1,000 idle connections.
All share the CPUs of one machine, the load tool too, whose CPU seconds are reported.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from m2l_runtime import Synthesizer

IDLE: Final = 1000
OVERLOAD: Final = 4
SERVE: Final = "from m2l_runtime.cli.main import main; main()"
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Loaded:
    """Hold what the load tool noted: seconds and status of each request, and the wall and CPU seconds."""

    seconds: np.ndarray
    status: np.ndarray
    wall_s: float
    tool_cpu_s: float

    def ms(self, status: int, quantile: float) -> float | None:
        """Return a quantile of the latency of answers of a status, in ms."""
        chosen = self.seconds[self.status == status]
        return round(float(np.quantile(chosen, quantile)) * 1000, 2) if chosen.size else None

    def describe(self) -> dict[str, Any]:
        """Describe it for the results."""
        counts = {str(one): int((self.status == one).sum()) for one in np.unique(self.status)}
        latency = {
            str(one): {f"p{q}": self.ms(int(one), q / 100) for q in (50, 90, 99)} for one in np.unique(self.status)
        }
        answered = int((self.status == 200).sum())
        return {
            "counts": counts,
            "latency_ms": latency,
            "images_per_s": round(answered / self.wall_s, 2),
            "wall_s": round(self.wall_s, 2),
            "tool_cpu_s": round(self.tool_cpu_s, 2),
        }


class Service:
    """Run `m2l serve` in a process of its own."""

    def __init__(self, bundle: str | None, options: Sequence[str]) -> None:
        words = ["serve", *([bundle] if bundle else []), "--port", "0", *options]
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process lives
        self.process = subprocess.Popen([sys.executable, "-c", SERVE, *words], stderr=self.log)
        while True:
            self.log.seek(0)
            found = re.search(rb"serving at http://127\.0\.0\.1:(\d+)", self.log.read())
            if found:
                break
            if self.process.poll() is not None:
                raise SystemExit("m2l serve ended at once")
            time.sleep(0.1)
        self.port = int(found[1])

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_mb(self) -> float:
        """Resident memory."""
        (line,) = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(line) / 1024

    @contextlib.contextmanager
    def peak_memory(self) -> Iterator[list[float]]:
        """Follow the memory within a block."""
        seen, is_over = [self.memory_mb()], threading.Event()

        def watch() -> None:
            while not is_over.wait(0.1):
                seen.append(self.memory_mb())

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            is_over.set()
            thread.join()

    def stop(self) -> int:
        """Stop it in order."""
        self.process.terminate()
        return self.process.wait(60)


@dataclass(frozen=True)
class Load:
    """Hold how the load tool is called: program, address, body, headers."""

    hey: str
    path: str
    body: Path
    headers: Mapping[str, str]

    def run(self, service: Service, *, connections: int, seconds: float = 0, count: int = 0, rate: float = 0) -> Loaded:
        """Send requests for some seconds or of a count, at most `rate` a second in all."""
        command = [self.hey, "-m", "POST", "-D", str(self.body), "-c", str(connections), "-o", "csv", "-t", "60"]
        for name, value in self.headers.items():
            command += ["-T", value] if name == "Content-Type" else ["-H", f"{name}: {value}"]
        command += ["-n", str(count)] if count else ["-z", f"{seconds}s"]
        if rate:
            command += ["-q", f"{rate / connections:.4f}"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        done = subprocess.run([*command, f"http://127.0.0.1:{service.port}{self.path}"], capture_output=True, text=True)
        wall_s = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        rows = [row for row in csv.DictReader(io.StringIO(done.stdout)) if row.get("status-code")]
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Loaded(
            np.array([float(row["response-time"]) for row in rows]),
            np.array([int(row["status-code"]) for row in rows]),
            wall_s,
            cpu_s,
        )


def mask_of(side: int) -> np.ndarray:
    rows, columns = np.ogrid[:side, :side]
    return np.where(np.hypot(rows - side / 2, columns - side / 2) < side / 4, np.uint8(255), np.uint8(0))


def loads(hey: str, folder: Path, mask: np.ndarray) -> dict[str, Load]:
    """Make the requests of each kind: a picture, and a tensor of the protocol in binary."""
    Image.fromarray(mask).save(folder / "mask.png")
    size = {"binary_data_size": mask.size}
    given = {"name": "mask", "shape": [1, *mask.shape], "datatype": "UINT8", "parameters": size}
    asked = {"name": "image", "parameters": {"binary_data": True}}
    text = json.dumps({"inputs": [given], "outputs": [asked]}).encode()
    (folder / "infer").write_bytes(text + mask.tobytes())
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(text))}
    return {
        "infer": Load(hey, "/v2/models/m2l/infer", folder / "infer", headers),
        "synthesize": Load(hey, "/synthesize", folder / "mask.png", {"Content-Type": "image/png"}),
    }


def engine_alone(synthesizer: Synthesizer, mask: np.ndarray, seconds: float) -> dict[str, float]:
    """Run the engine as the service does, as many calls at once as it has streams, without anything around it."""
    settings = synthesizer.settings
    masks = np.stack([mask] * settings.batch_size)
    end = time.perf_counter() + seconds

    def work(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            synthesizer.synthesize_checked(masks, list(range(len(masks))))
            count += len(masks)
        return count

    before, began = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(settings.streams) as pool:
        count = sum(pool.map(work, range(settings.streams)))
    return {
        "images_per_s": round(count / (time.perf_counter() - began), 2),
        "cpu_s_per_image": round((time.process_time() - before) / count, 5),
    }


def idle_connections(service: Service) -> dict[str, float]:
    """Open connections, ask something on each, and leave them open."""
    before = service.memory_mb()
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30))
            one.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            one.recv(4096)
        return {"connections": IDLE, "grew_mb": round(service.memory_mb() - before, 1)}


def measure(load: Load, service: Service, synthesizer: Synthesizer, mask: np.ndarray, args: Any) -> dict[str, Any]:
    """Measure one kind of request."""
    streams = synthesizer.settings.streams
    rounds: list[dict[str, Any]] = []
    for _ in range(args.rounds):
        alone = engine_alone(synthesizer, mask, args.seconds)
        cpu_s = service.cpu_s()
        saturated = load.run(service, connections=3 * streams, seconds=args.seconds)
        cpu_s = service.cpu_s() - cpu_s
        answered = int((saturated.status == 200).sum())
        rounds.append(
            {"alone": alone, "saturated": saturated.describe(), "cpu_s_per_image": round(cpu_s / max(1, answered), 5)}
        )
    capacity = float(np.median([one["saturated"]["images_per_s"] for one in rounds]))
    ratios = [one["saturated"]["images_per_s"] / one["alone"]["images_per_s"] for one in rounds]
    cpu_ratios = [one["alone"]["cpu_s_per_image"] / one["cpu_s_per_image"] for one in rounds]
    seconds = max(args.seconds, args.requests / capacity)
    single = load.run(service, connections=1, seconds=seconds)
    half = load.run(service, connections=streams, seconds=2 * seconds, rate=capacity / 2)
    memory_mb = service.memory_mb()
    with service.peak_memory() as seen:
        over = load.run(service, connections=12 * streams, seconds=seconds, rate=OVERLOAD * capacity)
    after = load.run(service, connections=1, seconds=seconds)
    return {
        "rounds": rounds,
        "throughput_ratio": round(float(np.median(ratios)), 3),
        "throughput_ratios": [round(one, 3) for one in ratios],
        "cpu_ratio": round(float(np.median(cpu_ratios)), 3),
        "single": single.describe(),
        "half": half.describe(),
        "overload": over.describe(),
        "after": after.describe(),
        "half_p99_over_single_p50": _over(half.ms(200, 0.99), single.ms(200, 0.5)),
        "half_p99_over_single_p99": _over(half.ms(200, 0.99), single.ms(200, 0.99)),
        "overload_p99_over_single_p50": _over(over.ms(200, 0.99), single.ms(200, 0.5)),
        "after_p50_over_single_p50": _over(after.ms(200, 0.5), single.ms(200, 0.5)),
        "memory_mb": {"before": round(memory_mb), "peak": round(max(seen)), "after": round(service.memory_mb())},
    }


def _over(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else round(one / other, 2)


def run(args: argparse.Namespace) -> None:
    """Measure, and add a line of JSON to the results."""
    options = args.serve.split()
    with (
        Synthesizer.open(args.bundle, streams=None) as synthesizer,
        tempfile.TemporaryDirectory() as folder,
    ):
        mask = mask_of(synthesizer.image_size[0])
        service = Service(args.bundle, options)
        try:
            kinds = loads(args.hey, Path(folder), mask)
            found = {kind: measure(load, service, synthesizer, mask, args) for kind, load in kinds.items()}
            idle = idle_connections(service)
        finally:
            status = service.stop()
        settings = synthesizer.settings
        result = {
            "bundle": synthesizer.bundle.manifest.name,
            "engine": settings.engine,
            "batch_size": settings.batch_size,
            "streams": settings.streams,
            "options": options,
            "cpus": len(os.sched_getaffinity(0)),
            "load_average_1min": round(os.getloadavg()[0], 1),
            "note": args.note,
            "kinds": found,
            "idle": idle,
            "exit_status": status,
        }
    with args.out.open("a") as file:
        file.write(json.dumps(result) + "\n")
    for kind, one in found.items():
        print(kind, {name: value for name, value in one.items() if not isinstance(value, dict | list)})
    print("idle", idle)


def plot(results: Path, out: Path) -> None:
    """Draw the latencies of each kind of request at each load, as multiples of a single request's median."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in results.read_text().splitlines()]
    figure, axes = pyplot.subplots(1, len(lines), figsize=(5.5 * len(lines), 4), squeeze=False)
    for axis, line in zip(axes[0], lines, strict=True):
        for place, (kind, one) in enumerate(line["kinds"].items()):
            base = one["single"]["latency_ms"]["200"]["p50"]
            loads_ = ("single", "half", "overload", "after")
            for quantile, style in (("p50", "o-"), ("p99", "s--")):
                values = [one[load]["latency_ms"]["200"][quantile] / base for load in loads_]
                axis.plot(loads_, values, style, color=f"C{place}", label=f"{kind}, {quantile}")
            refused = one["overload"]["latency_ms"].get("503")
            if refused is not None:
                axis.plot(["overload"], [refused["p99"] / base], "x", color=f"C{place}", label=f"{kind}, refused, p99")
        axis.set_title(f"{line['bundle']}, {line['engine']}", fontsize=9)
        axis.set_ylabel("latency / median of a single request")
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    """Read the command line."""
    if sys.argv[1:2] == ["plot"]:
        plot(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--hey", default="hey")
    parser.add_argument("--bundle")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--requests", type=int, default=100, help="of a single connection, at least about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", default="", help="options for m2l serve")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path, required=True)
    run(parser.parse_args())


if __name__ == "__main__":
    main()
