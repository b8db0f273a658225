"""Reading, the engine and encoding at once: order, bounds, errors, and an iterator for Python."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import TINY_BUNDLE, disc, save

from m2l_runtime import MaskFile, Synthesizer, iterate_folder, read_mask
from m2l_runtime.backends.base import Inputs
from m2l_runtime.errors import EngineError, InputError
from m2l_runtime.runs.pipeline import Clock, Input, overlap


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    folder.mkdir()
    for index in range(12):
        save(folder / f"m{index:02}.png", disc(100 + index, 10 + 2 * index, 50, 50))
    (folder / "m05bad.png").write_text("no")
    save(folder / "m07.png", np.zeros((50, 60), np.uint8))
    return folder


def mask_file(level: int) -> MaskFile:
    return MaskFile(np.full((256, 256), level, np.uint8), "", (256, 256), None, None)


@pytest.mark.parametrize(("batch_size", "streams"), [(1, 1), (1, 3), (4, 1), (3, 2)])
def test_pipeline__results_come_in_order_each_with_its_own_image(batch_size: int, streams: int) -> None:
    generator = np.random.default_rng(batch_size)
    pauses = generator.uniform(0, 0.004, (2, 120))

    def read(index: int) -> Input[int]:
        time.sleep(pauses[0, index])
        return Input(index, None if index % 7 == 3 else mask_file(index))

    def encode(index: int, mask: MaskFile, image: object) -> tuple[int, float, float]:
        time.sleep(pauses[1, index])
        return index, float(mask.mask.mean()), float(np.asarray(image)[0, 0, 0])

    with Synthesizer.open(TINY_BUNDLE, backend="fake", batch_size=batch_size, streams=streams) as synth:
        made = list(overlap(range(120), synth, read, encode, workers=5))
        palette = synth.synthesize_checked(np.stack([mask_file(level).mask for level in range(120)]))[:, 0, 0, 0]
    assert [one.key for one in made] == list(range(120))
    for one in made:
        if one.key % 7 == 3:
            assert one.encoded is None
        else:
            assert one.encoded == (one.key, one.key, palette[one.key])


@pytest.mark.parametrize("kept", [0.0, 0.97])
def test_pipeline__the_queues_are_bounded_however_slow_the_consumer_is(kept: float) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken - 1

    def read(index: int) -> Input[int]:
        return Input(index, None if index % 100 < 100 * kept else mask_file(index % 256))

    with Synthesizer.open(TINY_BUNDLE, backend="fake", batch_size=2, streams=2) as synth:
        made = overlap(items(), synth, read, lambda *_: None, workers=2)
        for expected in range(5):
            assert next(made).key == expected
            time.sleep(0.05)
        assert taken < 2000
        made.close()


def test_pipeline__engine_calls_run_side_by_side_as_many_as_there_are_streams() -> None:
    together = threading.Barrier(3, timeout=20)
    with Synthesizer.open(TINY_BUNDLE, backend="fake", streams=3) as synth:
        backend = synth._backend
        assert backend is not None
        run = backend.run

        def meet(inputs: Inputs) -> object:
            together.wait()  # passes only when three calls are here at once
            return run(inputs)

        backend.run = meet  # type: ignore[method-assign, assignment]
        clock = Clock()
        made = list(overlap(range(9), synth, lambda i: Input(i, mask_file(i)), lambda *_: None, workers=2, clock=clock))
        assert len(made) == 9
        assert clock.seconds > 0
        assert len(synth(np.stack([disc()] * 6))) == 6


@pytest.mark.parametrize("where", ["read", "engine", "encode"])
def test_pipeline__an_error_comes_in_its_turn_and_ends_the_work(where: str) -> None:
    def trouble(place: str, index: int) -> None:
        if place == where and index == 20:
            raise EngineError(f"in {place}")

    def read(index: int) -> Input[int]:
        trouble("read", index)
        return Input(index, mask_file(index))

    def encode(index: int, *_: object) -> int:
        trouble("encode", index)
        return index

    with Synthesizer.open(TINY_BUNDLE, backend="fake") as synth:
        backend = synth._backend
        assert backend is not None
        run = backend.run

        def fail(inputs: Inputs) -> object:
            trouble("engine", int(inputs["mask"][0, 0, 0]))
            return run(inputs)

        backend.run = fail  # type: ignore[method-assign, assignment]
        seen: list[int] = []
        with pytest.raises(EngineError, match=f"in {where}"):
            seen.extend(one.key for one in overlap(range(200), synth, read, encode, workers=3))
    assert seen == list(range(20)) if where != "read" else seen == list(range(len(seen)))
    assert not [t for t in threading.enumerate() if t.name.startswith("m2l-")]


def test_pipeline__iterating_gives_what_the_synthesizer_gives(masks: Path, tiny_synth: Synthesizer) -> None:
    results = {result.name: result for result in iterate_folder(masks, tiny_synth)}
    assert list(results) == sorted(path.name for path in masks.iterdir())
    assert "is not a PNG" in str(results["m05bad.png"].problem)
    assert results["m05bad.png"].image is None
    assert results["m07.png"].note == "empty"
    for name in ("m00.png", "m07.png", "m11.png"):
        mask = read_mask(masks / name, (256, 256)).mask
        result = results[name]
        assert result.mask is not None
        assert result.image is not None
        np.testing.assert_array_equal(result.mask, mask)
        np.testing.assert_array_equal(result.image, tiny_synth(mask[None])[0])
        result.image[:] = 0  # the caller's own
        result.mask[:] = 0


def test_pipeline__iterating_at_the_original_size(masks: Path, tiny_synth: Synthesizer) -> None:
    results = [r for r in iterate_folder(masks, tiny_synth, original_size=True, workers=1) if r.image is not None]
    for result in results:
        assert result.mask is not None
        assert result.image is not None
        np.testing.assert_array_equal(result.mask, np.array(Image.open(masks / result.name)))
        assert result.image.shape == (*result.mask.shape, 3)
        result.image[:] = 0
    assert len(results) == 12


def test_pipeline__iterating_may_end_early_and_refuses_at_once(masks: Path, tiny_synth: Synthesizer) -> None:
    results = iterate_folder(masks, tiny_synth)
    assert next(results).name == "m00.png"
    del results  # as leaving a loop does
    assert not [t for t in threading.enumerate() if t.name.startswith("m2l-")]
    with pytest.raises(InputError, match="does not exist"):
        iterate_folder(masks / "absent", tiny_synth)
    with pytest.raises(InputError, match="number of workers"):
        iterate_folder(masks, tiny_synth, workers=0)
