"""Any number of masks to as many images."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from support import TINY_BUNDLE, Array, disc

from m2l_runtime import Synthesizer
from m2l_runtime.backends.base import Inputs
from m2l_runtime.backends.fake import LESION, SKIN
from m2l_runtime.errors import ArgumentError, ArrayError, BundleDamaged, BundleNotFound, DeviceUnavailable, EngineError

MASKS = np.stack([disc(radius=10 + 9 * i, x=60 + 12 * i) for i in range(7)])


def test_synthesizer__a_mask_gives_the_same_bytes_alone_and_among_others(tiny_synth: Synthesizer) -> None:
    together = tiny_synth(MASKS)
    assert together.shape == (7, 256, 256, 3)
    assert together.dtype == np.uint8
    for mask, image in zip(MASKS, together, strict=True):
        np.testing.assert_array_equal(tiny_synth(mask[None])[0], image)


@pytest.mark.parametrize("batch_size", [2, 3, 7, 8])
def test_synthesizer__the_tail_is_padded_and_the_padding_is_dropped(tiny_synth: Synthesizer, batch_size: int) -> None:
    with Synthesizer.open(TINY_BUNDLE, batch_size=batch_size) as synth:
        assert synth.settings.batch_size == batch_size
        np.testing.assert_array_equal(synth(MASKS), tiny_synth(MASKS))


def test_synthesizer__the_engine_always_sees_one_batch_shape() -> None:
    with Synthesizer.open(TINY_BUNDLE, backend="fake", batch_size=4) as synth:
        seen = []
        backend = synth._backend
        assert backend is not None
        run = backend.run

        def watch(inputs: Inputs) -> Array:
            seen.append(inputs["mask"].shape)
            return run(inputs)

        backend.run = watch  # type: ignore[method-assign]
        synth(MASKS)
        assert seen == [(4, 256, 256)] * 2


def test_synthesizer__a_mask_of_0_and_1_gives_the_same_image_among_others(tiny_synth: Synthesizer) -> None:
    mixed = np.stack([MASKS[0] // 255, MASKS[1]])
    kept = mixed.copy()
    np.testing.assert_array_equal(tiny_synth(mixed), tiny_synth(MASKS[:2]))
    np.testing.assert_array_equal(mixed, kept)


@pytest.mark.parametrize("lesion", [1, 15])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_synthesizer__a_map_of_class_labels_is_refused_whatever_its_type(
    tiny_synth: Synthesizer, lesion: int, dtype: type
) -> None:
    labels = MASKS[0] // 255 * lesion
    labels[:8] = 255  # the label of what is left out
    with pytest.raises(ArrayError, match=r"mask 1 of 2.* class labels"):
        tiny_synth(np.stack([MASKS[0], labels]).astype(dtype))


def test_synthesizer__greys_of_resizing_stay_as_they_are(tiny_synth: Synthesizer) -> None:
    soft = np.asarray(
        PillowImage.fromarray(MASKS[0]).resize((97, 97), PillowImage.Resampling.BICUBIC).resize((256, 256))
    )
    assert not np.isin(soft, (0, 255)).all()
    np.testing.assert_array_equal(tiny_synth(soft[None]), tiny_synth.synthesize_checked(soft[None]))


def test_synthesizer__no_masks_no_images(tiny_synth: Synthesizer) -> None:
    images = tiny_synth(np.zeros((0, 256, 256), np.uint8))
    assert images.shape == (0, 256, 256, 3)
    assert images.dtype == np.uint8


def test_synthesizer__the_caller_owns_the_images_and_masks_stay_as_they_are(tiny_synth: Synthesizer) -> None:
    masks = MASKS[:2].copy()
    masks.flags.writeable = False
    first = tiny_synth(masks)
    kept = first.copy()
    assert first.flags.writeable
    first[:] = 0
    np.testing.assert_array_equal(tiny_synth(masks), kept)


def test_synthesizer__strided_masks(tiny_synth: Synthesizer) -> None:
    np.testing.assert_array_equal(tiny_synth(MASKS[::-2, ::-1]), tiny_synth(MASKS[::-2, ::-1].copy()))


def test_synthesizer__several_threads_at_once(tiny_synth: Synthesizer) -> None:
    expected = tiny_synth(MASKS)
    with ThreadPoolExecutor(6) as pool:
        for images in pool.map(lambda _: tiny_synth(MASKS), range(12)):
            np.testing.assert_array_equal(images, expected)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_synthesizer__streams_change_no_byte(tiny_synth: Synthesizer, batch_size: int) -> None:
    with Synthesizer.open(TINY_BUNDLE, batch_size=batch_size, threads=3, streams=3) as synth:
        assert (synth.settings.streams, synth.settings.threads) == (3, 1)
        np.testing.assert_array_equal(synth(MASKS), tiny_synth(MASKS))


def test_synthesizer__a_closed_synthesizer_says_so() -> None:
    synth = Synthesizer.open(TINY_BUNDLE)
    synth.close()
    synth.close()
    with pytest.raises(EngineError, match="is closed"):
        synth(MASKS)


def test_synthesizer__wrong_arrays_are_refused(tiny_synth: Synthesizer) -> None:
    with pytest.raises(ArrayError, match=r"\(N, 256, 256\)"):
        tiny_synth(np.zeros((128, 128), np.uint8))
    with pytest.raises(ArrayError, match="class labels"):
        tiny_synth(np.where(MASKS > 0, np.arange(256, dtype=np.uint16) // 64, 0))


def test_synthesizer__the_model_inside_the_package_needs_no_arguments() -> None:
    with Synthesizer.open() as synth:
        assert synth.image_size == (256, 256)
        assert synth(MASKS[6:]).shape == (1, 256, 256, 3)
        usual = np.median(synth.bundle.read_appearances(), 0).astype(np.float32)
        image = synth(MASKS[6:], appearances=usual)[0].astype(int)
    lesion, skin = image[MASKS[6] == 255].mean(0), image[MASKS[6] == 0].mean(0)
    assert skin.sum() > lesion.sum() + 60, "a lesion is darker than the skin around it"
    assert lesion[0] > lesion[1] > 0, "red is above green in a lesion"
    assert lesion[0] > lesion[2]


def test_synthesizer__the_fake_paints_where_the_mask_is() -> None:
    with Synthesizer.open(TINY_BUNDLE, backend="fake") as synth:
        image = synth(MASKS[:1])[0]
    np.testing.assert_array_equal(image[MASKS[0] == 255], np.tile(LESION, ((MASKS[0] == 255).sum(), 1)))
    np.testing.assert_array_equal(image[MASKS[0] == 0], np.tile(SKIN, ((MASKS[0] == 0).sum(), 1)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "caffe"}, ArgumentError, "choose one of auto, openvino, onnxruntime, tensorrt, fake"),
        ({"device": "tpu"}, ArgumentError, "choose auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, ArgumentError, "choose auto, cpu, cuda or cuda:N"),
        ({"batch_size": 0}, ArgumentError, "batch size must be between 1 and 4096, got 0"),
        ({"threads": -2}, ArgumentError, "number of threads must be between"),
        ({"streams": 0}, ArgumentError, "number of streams must be between"),
        ({"backend": "fake", "device": "cuda"}, DeviceUnavailable, "only cpu"),
        ({"device": "cpu", "provider_options": {"a": "b"}}, EngineError, "provider options are for CUDA"),
    ],
)
def test_synthesizer__wrong_options(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Synthesizer.open(TINY_BUNDLE, **options)  # type: ignore[arg-type]


def test_synthesizer__no_bundle(tmp_path: object) -> None:
    with pytest.raises(BundleNotFound, match="does not exist") as error:
        Synthesizer.open(f"{tmp_path}/absent")
    assert isinstance(error.value, FileNotFoundError)


def test_synthesizer__memory_that_does_not_hold_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("m2l_runtime.synthesizer._padded", fail)
    with (
        Synthesizer.open(TINY_BUNDLE, backend="fake", batch_size=64) as synth,
        pytest.raises(EngineError, match="too little memory for 64 images a call and 1 call at once; choose a smaller"),
    ):
        synth(disc()[None])


def test_pickle__bundle_and_options_travel(
    tmp_path: Path, tiny_synth: Synthesizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TINY_BUNDLE, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    options = {"threads": 2, "batch_size": 3, "streams": 2}
    with Synthesizer.open("bundle", backend="onnxruntime", on_step=lambda _: None, **options) as synth:  # type: ignore[arg-type]
        content = pickle.dumps(synth)
        expected = synth.settings
    monkeypatch.chdir("/")  # a relative path would lead nowhere
    with pickle.loads(content) as arrived:
        assert arrived.settings == expected
        assert arrived.bundle.path == tmp_path / "bundle"
        np.testing.assert_array_equal(arrived(MASKS), tiny_synth(MASKS))


def test_pickle__a_process_that_is_spawned_gets_one() -> None:
    code = (
        "import multiprocessing, operator, sys\n"
        "import numpy as np\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from m2l_runtime import Synthesizer\n"
        "if __name__ == '__main__':\n"
        "    mask = np.zeros((1, 256, 256), np.uint8)\n"
        "    mask[:, 50:200, 50:200] = 255\n"
        "    synth = Synthesizer.open(sys.argv[1], threads=1, device='cpu')\n"
        "    here = synth(mask)\n"
        "    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:\n"
        "        there = pool.submit(operator.call, synth, mask).result(50)\n"
        "    print((here == there).all(), here.std() > 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(TINY_BUNDLE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "True True\n", done


def test_pickle__the_bundle_inside_the_package_is_that_of_the_package_it_arrives_at() -> None:
    with Synthesizer.open(backend="fake") as synth:
        content = pickle.dumps(synth)
        assert str(synth.bundle.path).encode() not in content
        with pickle.loads(content) as arrived:
            np.testing.assert_array_equal(arrived(MASKS), synth(MASKS))


def test_pickle__what_cannot_travel_is_told(bundle_copy: Path) -> None:
    synth = Synthesizer.open(bundle_copy, backend="fake")
    content = pickle.dumps(synth)
    manifest = bundle_copy / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    with pytest.raises(BundleDamaged, match="is not the bundle that was opened in the other process"):
        pickle.loads(content)
    backend = synth._backend
    assert backend is not None
    with pytest.raises(EngineError, match=r"handed in.*Synthesizer\.open"):
        pickle.dumps(Synthesizer(synth.bundle, backend))
    synth.close()
    with pytest.raises(EngineError, match="closed, so it cannot be pickled"):
        pickle.dumps(synth)
