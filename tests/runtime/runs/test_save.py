"""Images of a call are saved with what the files of a run say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import disc

from m2l_runtime import Encoding, Synthesizer, save_image, synthesize_folder
from m2l_runtime.errors import ArgumentError, ArrayError, OutputError
from m2l_runtime.output.encoding import SYNTHETIC, read_image_provenance


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp"])
def test_save_image__the_file_says_that_it_is_synthetic(name: str, tmp_path: Path, tiny_synth: Synthesizer) -> None:
    image = tiny_synth(disc()[None])[0]
    save_image(image, tmp_path / name, tiny_synth, seed=12)
    with Image.open(tmp_path / name) as picture:
        found, text = read_image_provenance(picture), str(dict(picture.info) | dict(picture.getexif()))
        pixels = np.asarray(picture.convert("RGB"), int)
    assert found is not None
    assert (found.bundle_sha256, found.is_fake) == (tiny_synth.bundle.sha256, False)
    assert SYNTHETIC in text
    assert "12" in text
    assert np.abs(pixels - image).mean() < (1e-9 if name == "a.png" else 20)  # images of the tiny network are noise


def test_save_image__png_is_the_file_of_a_run(tmp_path: Path, tiny_synth: Synthesizer) -> None:
    Image.fromarray(disc()).save(tmp_path / "m.png")
    synthesize_folder(tmp_path / "m.png", tmp_path / "run.png", tiny_synth)
    save_image(tiny_synth(disc()[None])[0], tmp_path / "call.png", tiny_synth)
    assert (tmp_path / "call.png").read_bytes() == (tmp_path / "run.png").read_bytes()


def test_save_image__what_is_wrong_is_told(tmp_path: Path, tiny_synth: Synthesizer) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    wrong: Any
    for wrong in (image[None], image[:, :, 0], image / 255):
        with pytest.raises(ArrayError, match=r"must be \(H, W, 3\) uint8, got .* take one"):
            save_image(wrong, tmp_path / "a.png", tiny_synth)
    for name in ("a.npz", "a.gif", "a"):
        with pytest.raises(ArgumentError, match=r"must end in one of \.png, \.jpg, \.jpeg, \.webp"):
            save_image(image, tmp_path / name, tiny_synth)
    with pytest.raises(ArgumentError, match="ends as png does, but the encoding is jpeg"):
        save_image(image, tmp_path / "a.png", tiny_synth, encoding=Encoding("jpeg"))
    save_image(image, tmp_path / "a.png", tiny_synth)
    with pytest.raises(OutputError, match="exists already"):
        save_image(image, tmp_path / "a.png", tiny_synth)
    save_image(image, tmp_path / "a.png", tiny_synth, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
