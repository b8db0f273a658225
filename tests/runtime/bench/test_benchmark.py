"""m2l bench: what is measured, in which order, and what the figures are; nothing timed is asserted."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from bench_reports import SETTINGS, make_report, make_round, make_row
from support import TINY_BUNDLE, edit

import m2l_runtime.bench
from m2l_runtime import Synthesizer, open_bundle
from m2l_runtime.backends.base import Backend, BackendSettings
from m2l_runtime.bench import BenchConfig, Round, Row, Statistic, bench, benchmark, rows, timing, worker
from m2l_runtime.bench.benchmark import shuffled_rounds
from m2l_runtime.bench.messages import WorkerRequest, WorkerResponse, decode, encode
from m2l_runtime.bench.report import METRICS, as_json, summarize, summarize_ratio
from m2l_runtime.bench.rows import BenchOptions, check_effort, plan_rows
from m2l_runtime.bench.table import as_table, number
from m2l_runtime.bundle import embedded
from m2l_runtime.conditioning.conditions import ExtraInputs
from m2l_runtime.errors import EngineError, EngineNotInstalled, InputError

pytestmark = pytest.mark.once

SHORT = 0.001
# The process of a row, but that it does something else where the batch size is 2.
PATCHED_WORKER = """
import os, signal, sys, time
from m2l_runtime.bench import worker
real = worker.measure
def twisted(question):
    if question.config.batch_size == 2:
        {twist}
    return real(question)
worker.measure = twisted
worker.main()
"""


def test_benchmark__turns_take_everything_once_a_round_and_begin_with_another() -> None:
    for count, rounds in itertools.product(range(1, 9), range(1, 9)):
        order = list(shuffled_rounds(count, rounds))
        assert [number for number, _ in order] == [number for number in range(rounds) for _ in range(count)]
        by_round = [[thing for n, thing in order if n == number] for number in range(rounds)]
        assert all(sorted(things) == list(range(count)) for things in by_round)
        assert len({things[0] for things in by_round}) > 1 or count == 1 or rounds == 1
    assert [thing for _, thing in shuffled_rounds(3, 3)] == [0, 1, 2, 1, 2, 0, 2, 0, 1]
    assert list(shuffled_rounds(6, 3))[::6] == [(0, 0), (1, 2), (2, 4)]


def test_benchmark__figures_are_medians_with_their_spread() -> None:
    assert summarize([30.0, 10.0, 12.0]) == Statistic(12.0, 10.0, 30.0)
    assert summarize([7.0]) == Statistic(7.0, 7.0, 7.0)
    assert summarize([1.0, 2.0]).median == 1.5
    assert summarize([10.0, 8.0, 13.0]).spread == pytest.approx(0.5)


def test_benchmark__ratios_are_within_rounds() -> None:
    ours, theirs = [10.0, 40.0, 30.0], [10.0, 20.0, 10.0]
    assert summarize_ratio(ours, theirs) == Statistic(2.0, 1.0, 3.0)
    assert statistics.median(ours) / statistics.median(theirs) == 3.0, "which is not what is meant"


def test_benchmark__a_report_relates_rows_to_the_first_that_was_measured() -> None:
    failed = make_row(1, 99.0, reason="in round 2: broken")
    one, two = make_row(2, 10.0, 20.0, 10.0), make_row(4, 10.0, 40.0, 30.0)
    report = make_report(failed, one, two, Row(BenchConfig("openvino", "cpu", "int8", 1), reason="no such file"))
    assert report.reference is one
    assert report.measured == (one, two)
    assert two.metrics["images_per_s"] == Statistic(30.0, 10.0, 40.0)
    assert two.metrics["latency_p99_ms"] == Statistic(3000 / 30, 3000 / 40, 3000 / 10)
    assert report.ratios(two)["images_per_s"] == Statistic(2.0, 1.0, 3.0)
    assert dataclasses.astuple(report.ratios(two)["latency_p50_ms"]) == pytest.approx((0.5, 1 / 3, 1.0))
    assert report.ratios(one)["end_to_end_images_per_s"] == Statistic(1.0, 1.0, 1.0)
    assert not failed.metrics
    assert not report.ratios(failed)
    of_cards = {"device_memory_megabytes", "build_s"}
    assert set(two.metrics) == set(report.ratios(two)) == set(METRICS) - of_cards


def test_benchmark__what_a_system_does_not_tell_is_left_out() -> None:
    report = make_report(make_row(1, 10.0, memory=None), make_row(2, 10.0))
    assert "peak_memory_megabytes" not in report.rows[0].metrics
    assert "peak_memory_megabytes" not in report.ratios(report.rows[1])
    assert as_table(report).count(" -\n") == 1


def test_benchmark__what_a_card_holds_and_what_was_built_once() -> None:
    """A plan is built in the first round and kept for the others."""
    rows = []
    for batch_size, megabytes in ((1, 100.0), (16, 300.0)):
        row = make_row(batch_size, 10.0, 20.0)
        rounds = [dataclasses.replace(one, device_memory_megabytes=megabytes) for one in row.rounds]
        rounds[0] = dataclasses.replace(rounds[0], build_s=12.0 * batch_size)
        rows.append(dataclasses.replace(row, rounds=tuple(rounds)))
    report = make_report(*rows)
    assert report.rows[1].metrics["build_s"] == Statistic(192.0, 192.0, 192.0)
    assert "build_s" not in report.ratios(report.rows[1])
    words = " ".join(as_table(report).split())
    assert "on the GPU memory, MB ratio build, s" in words
    assert "fake cpu fp32 batch 16 300 (300..300) 3.00 (3.00..3.00) 192 (192..192)" in words
    assert "on the GPU" not in as_table(make_report(make_row(1, 10.0)))


def test_benchmark__the_table() -> None:
    text = as_table(
        make_report(
            make_row(1, 10.0, 20.0, 10.0), make_row(8, 10.0, 40.0, 30.0), make_row(16, reason="it\nfell \x1b over")
        )
    )
    words = " ".join(text.split())
    assert "fake cpu fp32 batch 8 30.0 (10.0..40.0) 2.00 (1.00..3.00) 15.0 (5.00..20.0)" in words
    assert "fake cpu fp32 batch 1 100 (50.0..100) 1.00 (1.00..1.00) 200 (100..200) 300 (150..300) 30" in words
    assert "fake cpu fp32 batch 8 33.3 (25.0..100) 0.500 (0.333..1.00)" in words
    assert r"fake cpu fp32 batch 16 it\nfell \x1b over" in words
    assert "median of 3 rounds (lowest..highest); about 2 s a measurement" in text
    assert "to fake cpu fp32 batch 1, within each round" in text
    assert r"Some \x1b[31mCPU, 2 usable CPUs, load average 0.5 at the start" in text
    assert "g.onnx 1.5 MB" in text
    assert "\x1b" not in text


def test_benchmark__one_round_has_no_spread() -> None:
    text = as_table(make_report(make_row(1, 10.0), rounds=1))
    assert "  fake cpu fp32 batch 1  10.0          1.00   5.00            1.00   1 x 1 thread" in text
    assert "1.00.." not in text


def test_benchmark__numbers_keep_three_digits_that_count() -> None:
    shown = [number(value) for value in (0.0, 0.012345, 0.5, 7.1, 99.94, 100.4, 12345.6)]
    assert shown == ["0.00", "0.0123", "0.500", "7.10", "99.9", "100", "12,346"]


def test_benchmark__rows_by_default_are_what_the_bundle_has_for_what_is_installed(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_NVIDIA", ())
    configs, notes = plan_rows(open_bundle(bundle_copy))
    assert configs == (BenchConfig("onnxruntime", "cpu", "fp32", 1), BenchConfig("onnxruntime", "cpu", "fp32", 8))
    assert not notes

    def more(manifest: dict[str, Any]) -> None:
        manifest["models"][0]["engines"] = ["onnxruntime", "openvino", "someone's"]
        manifest["models"].append(
            {**manifest["models"][0], "precision": "int8", "weights": "int8", "engines": ["onnxruntime"]}
        )

    edit(bundle_copy, more)
    monkeypatch.setattr(rows, "is_installed", lambda entry: "openvino" not in entry.packages)
    configs, notes = plan_rows(open_bundle(bundle_copy), BenchOptions(batch_sizes=(4,)))
    assert [(config.backend, config.precision) for config in configs] == [
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
    ]
    assert len(notes) == 1
    assert notes[0].startswith("openvino is not measured, as openvino is not installed: pip install")
    monkeypatch.setattr(rows, "is_installed", lambda _: True)
    configs, _ = plan_rows(open_bundle(bundle_copy), BenchOptions(batch_sizes=(4,)))
    assert sorted((config.backend, config.precision) for config in configs) == [
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
    ]
    monkeypatch.setattr(rows, "is_installed", lambda _: False)
    with pytest.raises(EngineNotInstalled, match="for onnxruntime: pip install"):
        plan_rows(open_bundle(bundle_copy))


def test_benchmark__cuda_is_measured_where_there_is_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_NVIDIA", (tmp_path / "absent", tmp_path))
    configs, _ = plan_rows(open_bundle(TINY_BUNDLE), BenchOptions(batch_sizes=(1,)))
    assert [config.device for config in configs] == ["cpu", "cuda"]
    configs, _ = plan_rows(open_bundle(TINY_BUNDLE), BenchOptions(batch_sizes=(1,), devices=("cuda:1",)))
    assert [config.device for config in configs] == ["cuda:1"]


def test_benchmark__rows_that_are_asked_for() -> None:
    configs, notes = plan_rows(
        open_bundle(TINY_BUNDLE),
        BenchOptions(
            backends=("fake", "openvino", "fake"),
            devices=("cpu",),
            precisions=("int8",),
            batch_sizes=(16, 1, 16),
            threads=3,
            streams=(1, 2),
        ),
    )
    assert configs[:4] == tuple(
        BenchConfig("fake", "cpu", "int8", size, 3, streams) for size in (16, 1) for streams in (1, 2)
    )
    assert [config.backend for config in configs] == ["fake"] * 4 + ["openvino"] * 4
    assert notes == ("the fake backend runs no model: its row times all that is around an engine",)
    assert Row(configs[0]).label == "fake cpu int8 batch 16 streams 1"


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"backends": ("caffe\n",)}, r"there is no backend 'caffe\\n'; choose among"),
        ({"backends": ("auto",)}, "there is no backend 'auto'"),
        ({"precisions": ("fp7",)}, "there is no precision 'fp7'; choose among fp32, fp16, bf16, int8"),
        ({"batch_sizes": (1, 0)}, "batch size must be between 1 and 4096, got 0"),
        ({"batch_sizes": (5000,)}, "between 1 and 4096, got 5000"),
        ({"batch_sizes": ()}, "name at least one batch size"),
        ({"threads": 0}, "number of threads must be between 1 and 4096, got 0"),
        ({"streams": (4097,)}, "number of streams must be between 1 and 4096, got 4097"),
        ({"batch_sizes": range(1, 1002)}, "1,001 rows are too many"),
    ],
)
def test_benchmark__rows_that_cannot_be(wishes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_rows(open_bundle(TINY_BUNDLE), BenchOptions(**({"backends": ("fake",)} | wishes)))


@pytest.mark.parametrize(
    "effort", [(0, 1.0, 1.0), (1001, 1.0, 1.0), (1, 0.0, 1.0), (1, float("nan"), 1.0), (1, 1.0, float("inf"))]
)
def test_benchmark__efforts_that_cannot_be(effort: tuple[int, float, float]) -> None:
    with pytest.raises(InputError, match=r"must be (between|more than)"):
        check_effort(BenchOptions(repeats=effort[0], seconds=effort[1], timeout_s=effort[2]))
    with pytest.raises(InputError):
        bench(TINY_BUNDLE, backends=["fake"], repeats=effort[0], seconds=effort[1], timeout_s=effort[2])


class FakeClock:
    """A clock that stands still but when it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 5.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now_s)


class Stub:
    """A backend whose calls take a time that is known."""

    def __init__(self, clock: FakeClock | None, settings: BackendSettings, *seconds: float) -> None:
        self.clock, self.settings, self.seconds, self.seen = (
            clock,
            settings,
            itertools.cycle(seconds),
            cast(list[int], []),
        )
        self.notes = ()

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
        self.seen.append(int(inputs["mask"][0]))
        if self.clock is not None:
            self.clock.now_s += next(self.seconds)
        return np.zeros(1, np.uint8)

    def close(self) -> None:
        pass


INPUTS = [{"mask": np.array([number])} for number in range(3)]


def test_benchmark__latencies_are_those_of_calls_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(FakeClock(monkeypatch), SETTINGS, 0.25, 0.75)
    found = timing.latencies_ms(cast(Backend, stub), INPUTS, 5.0)
    assert found == [250.0, 750.0] * 5
    assert stub.seen == [0, 1, *(number % 3 for number in range(10))]
    slow = Stub(FakeClock(monkeypatch), SETTINGS, 60.0)
    assert timing.latencies_ms(cast(Backend, slow), INPUTS, 1.0) == [60_000.0] * 5, "some calls at least"


def test_benchmark__images_per_s_count_the_images_of_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(FakeClock(monkeypatch), dataclasses.replace(SETTINGS, batch_size=8), 0.5)
    assert timing.images_per_s(cast(Backend, stub), INPUTS, 4.0) == 16.0


def test_benchmark__streams_call_at_once() -> None:
    import threading

    settings = dataclasses.replace(SETTINGS, streams=3)
    together, meeting = [], threading.Barrier(3)

    class Meeting(Stub):
        def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
            together.append(meeting.wait(30))  # breaks unless three calls are under way
            return np.zeros(1, np.uint8)

    assert timing.images_per_s(cast(Backend, Meeting(None, settings)), INPUTS, 0.0) > 0  # the fewest calls
    assert len(together) == 3 * (timing._MIN_WARM_UP_CALLS + timing._MIN_CALLS_PER_STREAM)


def test_benchmark__a_stream_that_fails_does_not_leave_the_others_waiting() -> None:
    class Failing(Stub):
        def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
            self.seen.append(0)
            if len(self.seen) == 2:
                raise EngineError("the second call fails")
            return np.zeros(1, np.uint8)

    with pytest.raises(EngineError, match="the second call fails"):
        timing.images_per_s(cast(Backend, Failing(None, dataclasses.replace(SETTINGS, streams=4))), INPUTS, SHORT)


def test_benchmark__batches_hold_every_mask_and_all_that_a_generator_takes() -> None:
    bundle = open_bundle(embedded.BUNDLE)
    masks = timing.example_masks(bundle.manifest.image_size)
    assert masks.shape == (12, 256, 256)
    for batch_size, count in ((1, 12), (5, 3), (8, 2), (16, 1)):
        found = timing.batches(ExtraInputs(bundle), masks, batch_size)
        assert len(found) == count
        given = np.concatenate([batch["mask"] for batch in found])
        assert np.array_equal(given, masks[np.arange(count * batch_size) % 12])
        for batch in found:
            assert {name: array.shape for name, array in batch.items()} == {
                spec.name: (batch_size, *spec.shape[1:]) for spec in bundle.manifest.inputs
            }


def test_benchmark__end_to_end_is_a_run_over_files(tmp_path: Path) -> None:
    with Synthesizer.open(TINY_BUNDLE, backend="fake", batch_size=4, streams=2) as synthesizer:
        rate, count = timing.end_to_end(synthesizer, tmp_path, 0.05)
    assert rate > 0
    assert count % 8 == 0
    assert len(list((tmp_path / "timed-masks").glob("*.png"))) == count
    images = sorted((tmp_path / "timed-images").glob("*.png"))
    assert [image.stem.partition("-")[2] for image in images[:2]] == ["01_disc", "02_ellipse"]
    assert len(images) == count


def test_benchmark__first_images_count_from_the_start_of_the_process(tmp_path: Path) -> None:
    config = BenchConfig("fake", "cpu", "fp32", 2)
    request = WorkerRequest(config, str(TINY_BUNDLE), str(tmp_path), SHORT, time.monotonic() - 1000)
    found = worker.answer(request)
    assert found.reason is None
    assert found.round is not None
    assert found.round.first_image_s > 1000
    assert found.round.load_s < 1000
    assert found.latency_settings is not None
    assert (found.latency_settings.batch_size, found.latency_settings.streams) == (2, 1)


def test_benchmark__questions_and_answers_survive_the_way(tmp_path: Path) -> None:
    odd = os.fsdecode(b"latin\xe9 \n")
    request = WorkerRequest(BenchConfig("fake", "cpu", "fp32", 1, streams=2), odd, odd, 2.0, 1.0)
    assert decode(json.loads(encode(request)), WorkerRequest) == request
    found = WorkerResponse(
        make_round(3.0, memory=None), SETTINGS, dataclasses.replace(SETTINGS, provider_options=(("a", "b"),))
    )
    assert decode(json.loads(encode(found)), WorkerResponse) == found
    assert encode(request).count(b"\n") == 1


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; nothing is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_benchmark__rows_are_measured_round_by_round(temporary: Path) -> None:
    planned: list[BenchConfig] = []
    seen: list[tuple[int, int]] = []
    report = bench(
        TINY_BUNDLE,
        backends=["fake", "onnxruntime"],
        devices=["cpu"],
        batch_sizes=[1, 3],
        repeats=2,
        seconds=SHORT,
        on_start=planned.extend,
        on_round=lambda round_number, row: seen.append((round_number, planned.index(row.config))),
    )
    assert seen == list(shuffled_rounds(4, 2)) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (1, 0), (1, 1)]
    assert [row.label for row in report.rows] == [
        f"{backend} cpu fp32 batch {size}" for backend in ("fake", "onnxruntime") for size in (1, 3)
    ]
    assert (report.round_count, report.was_stopped, report.reference) == (2, False, report.rows[0])
    for row in report.rows:
        assert row.reason is None
        assert len(row.rounds) == 2
        assert set(row.metrics) == set(METRICS) - {"device_memory_megabytes", "build_s"}
        assert all(0 < figure.lowest <= figure.median <= figure.highest for figure in row.metrics.values())
        assert row.throughput_settings is not None
        assert row.throughput_settings.batch_size == row.config.batch_size
        assert row.rounds[0].latency_call_count >= 5
        assert row.rounds[0].end_to_end_image_count % row.config.batch_size == 0
    assert report.bundle["sha256"] == open_bundle(TINY_BUNDLE).sha256
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_benchmark__a_way_that_does_not_load_is_a_row_that_says_why(temporary: Path) -> None:
    report = bench(
        TINY_BUNDLE,
        backends=["onnxruntime", "fake"],
        devices=["cpu", "tpu"],
        precisions=["int8"],
        batch_sizes=[1],
        repeats=2,
        seconds=SHORT,
    )
    on_cpu, on_tpu, fake, fake_tpu = report.rows
    assert "was not made for the backend 'onnxruntime' in int8, only for onnxruntime in fp32" in str(on_cpu.reason)
    assert "no device 'tpu'" in str(on_tpu.reason)
    assert report.measured == (fake,)
    assert report.reference is fake
    assert "no device 'tpu'" in str(fake_tpu.reason)


def run_patched(twist: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-c", PATCHED_WORKER.replace("{twist}", twist))


@pytest.mark.slow
def test_benchmark__a_row_whose_process_is_killed_says_so_and_the_others_are_there(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COMMAND", run_patched("os.kill(os.getpid(), signal.SIGKILL)"))
    seen: list[int] = []
    report = bench(
        TINY_BUNDLE,
        backends=["fake"],
        batch_sizes=[1, 2, 3],
        repeats=2,
        seconds=SHORT,
        on_round=lambda _, row: seen.append(row.config.batch_size),
    )
    assert [row.is_measured for row in report.rows] == [True, False, True]
    assert str(report.rows[1].reason).startswith("its process was ended by SIGKILL (too little memory?)")
    assert seen == [1, 2, 3, 3, 1], "what has failed is not tried again"
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_benchmark__a_row_whose_process_hangs_is_ended(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "COMMAND", run_patched("time.sleep(600)"))
    (row,) = bench(TINY_BUNDLE, backends=["fake"], batch_sizes=[2], repeats=1, timeout_s=2).rows
    assert row.reason == "not done after 2 s, so its process was ended"
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "there is too little memory: try a smaller batch size"),
        (EngineError("the engine fell over"), "the engine fell over"),
        (KeyError("a bug"), "unexpected KeyError: 'a bug'"),
    ],
)
def test_benchmark__what_goes_wrong_in_a_row_process_is_its_answer(
    error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: WorkerRequest) -> WorkerResponse:
        raise error

    monkeypatch.setattr(worker, "measure", fail)
    found = worker.answer(
        WorkerRequest(BenchConfig("fake", "cpu", "fp32", 1), str(TINY_BUNDLE), str(tmp_path), SHORT, 0.0)
    )
    assert reason in str(found.reason)
    assert found.round is None


@pytest.mark.slow
def test_benchmark__a_row_that_fails_later_keeps_what_it_measured_but_has_no_figures(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "been-here"
    twist = f"os.path.exists({str(mark)!r}) and os.kill(os.getpid(), signal.SIGKILL); open({str(mark)!r}, 'w').close()"
    monkeypatch.setattr(worker, "COMMAND", run_patched(twist))
    report = bench(TINY_BUNDLE, backends=["fake"], batch_sizes=[2, 3], repeats=2, seconds=SHORT)
    failed, whole = report.rows
    assert str(failed.reason).startswith("in round 2: its process was ended by SIGKILL")
    assert len(failed.rounds) == 1
    assert not failed.metrics
    assert report.reference is whole
    assert len(whole.rounds) == 2


def test_benchmark__another_answer_than_expected_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "COMMAND", (sys.executable, "-c", 'print(\'{"round": {"load_s": "soon"}}\')'))
    report = bench(TINY_BUNDLE, backends=["fake"], batch_sizes=[1], repeats=1, seconds=SHORT)
    assert "another answer than was expected" in str(report.rows[0].reason)


def test_benchmark__what_an_engine_prints_is_no_answer(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = "os.write(1, b'{}\\nloading ...')"
    monkeypatch.setattr(worker, "COMMAND", run_patched(noise))
    (row,) = bench(TINY_BUNDLE, backends=["fake"], batch_sizes=[2], repeats=1, seconds=SHORT).rows
    assert row.reason is None
    assert row.is_measured


@pytest.mark.slow
def test_benchmark__stopping_keeps_the_rounds_that_are_finished(temporary: Path) -> None:
    turns_seen: list[int] = []
    report = bench(
        TINY_BUNDLE,
        backends=["fake"],
        batch_sizes=[1, 2],
        repeats=5,
        seconds=SHORT,
        on_round=lambda round_number, _: turns_seen.append(round_number),
        should_stop=lambda: len(turns_seen) == 3,
    )
    assert turns_seen == [0, 0, 1]
    assert (report.was_stopped, report.round_count, report.repeats) == (True, 1, 5)
    assert [len(row.rounds) for row in report.rows] == [1, 1]
    assert all(row.is_measured for row in report.rows)
    assert not list(temporary.iterdir())


def test_benchmark__an_unsteady_machine_is_noted() -> None:
    steady, unsteady = make_row(1, 100.0, 101.0, 110.0), make_row(2, 100.0, 101.0, 130.0)
    assert not benchmark._unsteady([steady, make_row(4, 1.0, 2.0, reason="failed")])
    (note,) = benchmark._unsteady([steady, unsteady])
    assert "2 values of images/s differed by more than 20% between rounds" in note


def test_benchmark__what_programs_are_given() -> None:
    document = json.loads(json.dumps(as_json(make_report(make_row(1, 10.0, 20.0), make_row(2, reason="no"), rounds=2))))
    assert set(document) == {
        "benchmark",
        "schema_version",
        "bundle",
        "machine",
        "repeats",
        "round_count",
        "seconds",
        "was_stopped",
        "notes",
        "reference",
        "rows",
    }
    measured, failed = document["rows"]
    assert set(measured) == set(failed)
    assert document["reference"] == measured["label"] == "fake cpu fp32 batch 1"
    assert measured["figures"]["images_per_s"] == {"median": 15.0, "lowest": 10.0, "highest": 20.0}
    assert measured["ratios_to_reference"]["images_per_s"]["median"] == 1.0
    assert [one["images_per_s"] for one in measured["rounds"]] == [10.0, 20.0]
    assert set(measured["rounds"][0]) == {field.name for field in dataclasses.fields(Round)}
    assert measured["throughput_settings"]["engine"] == "fake 1"
    assert (failed["reason"], failed["figures"], failed["rounds"]) == ("no", {}, [])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_benchmark__peak_memory_is_a_process_own_and_not_that_of_who_started_it() -> None:
    child = "from m2l_runtime._utils.cpu import peak_memory_megabytes as peak; print(peak())"
    parent = (
        "import subprocess, sys\n"
        "held = b'x' * 400_000_000\n"
        f"print(subprocess.run([sys.executable, '-c', {child!r}], capture_output=True, text=True).stdout)\n"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 1 < float(done.stdout) < 200


def test_benchmark__a_row_process_imports_what_a_first_image_needs_and_no_more() -> None:
    script = "import json, sys, m2l_runtime.bench.worker; print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "m2l_runtime.synthesizer" in loaded
    assert not {"typer", "rich", "matplotlib", "m2l_runtime.runs.folder", "m2l_runtime.bench.timing"} & loaded


def test_benchmark__names_of_the_package() -> None:
    assert set(m2l_runtime.bench.__all__) == {
        *("BenchConfig", "BenchOptions", "BenchReport", "Round", "Row", "Statistic", "bench")
    }
    with pytest.raises(AttributeError, match="no attribute 'benches'"):
        m2l_runtime.bench.benches  # type: ignore[attr-defined]  # noqa: B018
