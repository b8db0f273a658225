"""Which files of a folder are masks, and which are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image
from support import disc, save

from m2l_runtime.masks.mask_file import read_mask
from m2l_runtime.masks.mask_folder import find_masks

DISC = disc(64, 20, 30, 30)


@pytest.mark.parametrize(
    ("name", "file_format"),
    [("a.gif", "GIF"), ("a.jfif", "JPEG"), ("a.jpe", "JPEG"), ("a.pgm", "PPM"), ("a.ppm", "PPM"), ("a.pbm", "PPM")],
)
def test_mask_folder__what_pillow_reads_safely_is_read(tmp_path: Path, name: str, file_format: str) -> None:
    picture = Image.fromarray(DISC)
    picture = picture.convert({".pbm": "1", ".ppm": "RGB"}.get(Path(name).suffix, "L"))
    picture.save(tmp_path / name, file_format)
    masks = find_masks(tmp_path)
    assert (masks.names, masks.passed_over) == ([name], ())
    assert ((read_mask(tmp_path / name, (64, 64)).mask > 127) == (DISC > 127)).mean() > 0.99


def test_mask_folder__labels_in_a_pgm_are_labels(tmp_path: Path) -> None:
    labels = (DISC // 255).astype(np.uint8)
    labels[:4] = 2
    (tmp_path / "a.pgm").write_bytes(b"P5 64 64 2\n" + labels.tobytes())  # Pillow stretches 2 to 255
    with pytest.raises(Exception, match="class labels"):
        read_mask(tmp_path / "a.pgm", (64, 64))


def test_mask_folder__the_rest_is_named(tmp_path: Path, m2l: CommandLine) -> None:
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.png", DISC)
    np.save(tmp_path / "in" / "b.npy", DISC)
    for name in ("c.dcm", "d.nii.gz", "ISIC_1", "metadata.csv", "LICENSE", ".hidden.npy", "Thumbs.db"):
        (tmp_path / "in" / name).write_bytes(b"x")
    assert find_masks(tmp_path / "in").passed_over == ("ISIC_1", "b.npy", "c.dcm", "d.nii.gz")
    done = m2l("synth", tmp_path / "in", tmp_path / "out", "--backend", "fake")
    assert done.code == 0
    assert "note: 4 files are passed over, as their endings are not read (ISIC_1, b.npy, c.dcm, ...)" in done.err
    (tmp_path / "in" / "a.png").unlink()
    done = m2l("synth", tmp_path / "in", tmp_path / "none", "--backend", "fake")
    assert done.code == 1
    assert "holds no masks; looked for files ending in" in done.err
    assert "4 files are passed over" in done.err
