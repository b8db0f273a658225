"""Encoding as the real files are: against Pillow's own files, and in evaluations of files that differ in that alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_data import masks, photographs, write
from PIL import Image
from support import Array

from m2l_runtime.errors import InputError
from m2l_train.evaluate import Evaluation, EvaluationOptions, encoding, evaluate_images
from m2l_train.evaluate.encoding import common_encoding, encode_once, jpeg_of_quality, read_encoding


def jpeg(image: Array, quality: int, sampling: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=sampling)
    return file.getvalue()


@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [5, 50, 75, 92, 100])
def test_encoding__what_is_read_from_a_file_encodes_as_it_was(quality: int, sampling: int, tmp_path: Path) -> None:
    image = photographs(1)[0]
    (tmp_path / "p.jpg").write_bytes(jpeg(image, quality, sampling))
    found, size = read_encoding(tmp_path / "p.jpg")
    assert found is not None
    assert (found.quality, found.sampling, size) == (quality, sampling, (64, 64))
    assert (found.encode(image) == np.asarray(Image.open(tmp_path / "p.jpg"))).all()
    assert found == jpeg_of_quality(quality, sampling)


def test_encoding__quality_is_that_of_the_nearest_tables() -> None:
    tables = jpeg_of_quality(80).tables
    odd = encoding.JpegEncoding((tuple(step + (i == 3) for i, step in enumerate(tables[0])), tables[1]), 0)
    assert odd.label == "JPEG, quality 80, 4:4:4"


def test_encoding__most_files_decide(tmp_path: Path) -> None:
    image = photographs(1)[0]
    for name, quality in (("a", 60), ("b", 90), ("c", 90)):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(image, quality, 2))
    for name in ("d", "e"):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    Image.fromarray(image[:, :, 0]).save(tmp_path / "f.jpg")  # grey
    (tmp_path / "g.jpg").write_bytes(b"none")
    paths = sorted(tmp_path.iterdir())
    assert common_encoding(paths[:3], 2) == jpeg_of_quality(90)
    assert common_encoding(paths, 2) is None  # four that are no JPEG in color
    assert common_encoding([], 2) is None


def test_encoding__pixels_that_come_from_jpeg_as_they_are_stay(tmp_path: Path) -> None:
    image, once = photographs(1)[0], jpeg_of_quality(75)
    Image.fromarray(image).save(tmp_path / "p.png")
    (tmp_path / "p.jpg").write_bytes(jpeg(image, 60, 0))
    (tmp_path / "combined.jpg").write_bytes(jpeg(np.concatenate([image, image], 1), 60, 0))
    (tmp_path / "large.jpg").write_bytes(jpeg(np.repeat(np.repeat(image, 2, 0), 2, 1), 60, 0))
    for name in ("p.jpg", "combined.jpg"):
        assert encode_once(once, tmp_path / name, image) is image
    for name in ("p.png", "large.jpg"):
        assert (encode_once(once, tmp_path / name, image) == once.encode(image)).all()


@pytest.fixture
def jpeg_data(tmp_path: Path) -> Path:
    """The photographs of the fixture `data`, as JPEG of quality 60."""
    for split, first, count in (("train", 0, 12), ("val", 100, 8)):
        write(tmp_path / "data" / split / "masks", masks(count, first=first), first)
        folder = tmp_path / "data" / split / "images"
        folder.mkdir()
        for n, image in enumerate(photographs(count, first=first), first):
            (folder / f"p{n:03}.jpg").write_bytes(jpeg(image, 60, 2))
    return tmp_path / "data"


def evaluate(synthetic: Path, data: Path, **options: Any) -> Evaluation:
    found = evaluate_images(synthetic, data, EvaluationOptions(workers=2, **options))
    assert found is not None
    return found


def test_evaluation__pictures_that_differ_from_real_files_in_format_alone(jpeg_data: Path, tmp_path: Path) -> None:
    """What the JPEG files were made of, encoded, is what the JPEG files hold; as made it is far from that."""
    before = write(tmp_path / "before", photographs(8, first=100), 100)
    totals, done = list[int](), list[int]()
    found = evaluate(before, jpeg_data, on_start=totals.append, on_images=done.append)
    assert totals == [sum(done)]
    assert found.provenance.encoding == "JPEG, quality 60, 4:2:0"
    for name, figure in found.figures.items():
        if figure.value is not None and figure.real is not None:
            assert (figure.value, figure.low, figure.high) == (
                figure.real.value,
                figure.real.low,
                figure.real.high,
            ), name
    assert found.figures["l1"].value == 0
    for name in ("l1", "swd_64", "red_green_correlation"):
        as_made = found.figures[name].as_made
        assert as_made is not None
        assert as_made.value is not None
        assert abs(as_made.value - (found.figures[name].value or 0)) > 0.01, name

    plain = evaluate(before, jpeg_data, encoding="none")
    assert plain.provenance.encoding is None
    for name, figure in plain.figures.items():
        as_made = found.figures[name].as_made
        assert figure.as_made is None
        if figure.value is not None and as_made is not None:
            assert as_made.value == figure.value, name
        assert figure.real == found.figures[name].real


def test_evaluation__files_without_jpeg_are_compared_as_made(data: Path, synthetic: Path) -> None:
    found = evaluate(synthetic, data)
    assert found.provenance.encoding is None
    assert all(figure.as_made is None for figure in found.figures.values())


def test_evaluation__an_encoding_and_a_sheet_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="encoding must be real or none, got png"):
        EvaluationOptions(encoding="png")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"a sheet ends in .png, .jpg, .jpeg, got 'sheet.gif'"):
        EvaluationOptions(sheet=tmp_path / "sheet.gif")
