"""A folder of masks to a folder of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import TINY_BUNDLE, disc, save

from m2l_runtime import Synthesizer, open_bundle
from m2l_runtime.errors import ArgumentError, InputError, OutputError
from m2l_runtime.masks.mask_folder import find_masks
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.runs.folder import RunCallbacks, synthesize_folder


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    (folder / "a" / "deep").mkdir(parents=True)
    for index, name in enumerate(["one.png", "a/two.bmp", "a/deep/three.TIF", "four.x.png"]):
        save(folder / name, disc(radius=20 + 20 * index, y=60 + 40 * index))
    (folder / "notes.txt").write_text("not a mask")
    (folder / "._one.png").write_text("what macOS leaves behind")
    (folder / ".hidden").mkdir()
    save(folder / ".hidden" / "five.png", disc())
    return folder


NAMES = ["a/deep/three.png", "a/two.png", "four.x.png", "one.png"]


def images_below(folder: Path) -> list[str]:
    """Files but for the log and the lock."""
    files = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in files if "m2l-" not in name)


def test_folder__names_mirror_the_tree_and_pixels_the_masks(
    masks: Path, tmp_path: Path, tiny_synth: Synthesizer
) -> None:
    summary = synthesize_folder(masks, tmp_path / "out", tiny_synth)
    assert images_below(tmp_path / "out") == NAMES
    assert (summary.image_count, summary.bad_masks, summary.empty_count, summary.full_count) == (4, [], 0, 0)
    with Image.open(tmp_path / "out" / "a" / "two.png") as picture:
        image = np.array(picture)
    np.testing.assert_array_equal(image, tiny_synth(disc(radius=40, y=100)[None])[0])


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_folder__any_batch_size_writes_the_same_files(
    masks: Path, tmp_path: Path, tiny_synth: Synthesizer, batch_size: int
) -> None:
    (masks / "a" / "bad.png").write_text("no")
    synthesize_folder(masks, tmp_path / "expected", tiny_synth)
    with Synthesizer.open(TINY_BUNDLE, batch_size=batch_size) as synth:
        synthesize_folder(masks, tmp_path / "out", synth)
    for name in NAMES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_folder__every_image_says_what_it_is(masks: Path, tmp_path: Path, tiny_synth: Synthesizer) -> None:
    synthesize_folder(masks, tmp_path / "out", tiny_synth)
    with Synthesizer.open(TINY_BUNDLE, backend="fake") as fake:
        synthesize_folder(masks, tmp_path / "fake", fake)
    for folder, word in (("out", "Synthetic image"), ("fake", "No model was run")):
        for name in NAMES:
            with Image.open(tmp_path / folder / name) as picture:
                text = picture.info
            assert word in text["Description"]
            assert text["m2l-bundle-sha256"] == open_bundle(TINY_BUNDLE).sha256
            assert text["Software"].startswith("m2l ")


def test_folder__bad_masks_are_named_and_the_others_done(masks: Path, tmp_path: Path, tiny_synth: Synthesizer) -> None:
    (masks / "a" / "bad.png").write_text("no")
    save(masks / "photo.jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    save(masks / "black.png", np.zeros((9, 9), np.uint8))
    save(masks / "white.png", np.full((9, 9), 255, np.uint8))
    seen = []
    summary = synthesize_folder(
        masks, tmp_path / "out", tiny_synth, callbacks=RunCallbacks(on_result=lambda r: seen.append(r.name))
    )
    assert [m.split(":")[0].rsplit("/", 1)[1] for m in summary.bad_masks] == ["bad.png", "photo.jpg"]
    assert (summary.image_count, summary.empty_count, summary.full_count) == (6, 1, 1)
    assert seen == [
        "a/bad.png",
        "a/deep/three.TIF",
        "a/two.bmp",
        "black.png",
        "four.x.png",
        "one.png",
        "photo.jpg",
        "white.png",
    ]
    assert images_below(tmp_path / "out") == sorted({*NAMES, "black.png", "white.png"})


def test_folder__a_lesion_that_vanishes_at_the_models_size_is_no_error(tmp_path: Path, tiny_synth: Synthesizer) -> None:
    big = np.zeros((4000, 4000), np.uint8)
    big[2000, 2000] = 255
    save(tmp_path / "dot.png", big)
    assert synthesize_folder(tmp_path / "dot.png", tmp_path / "out", tiny_synth).image_count == 1


def test_folder__one_file_to_a_folder_or_a_name(masks: Path, tmp_path: Path, tiny_synth: Synthesizer) -> None:
    synthesize_folder(masks / "one.png", tmp_path / "out", tiny_synth)
    synthesize_folder(masks / "one.png", tmp_path / "new" / "lesion.png", tiny_synth)
    assert (tmp_path / "out" / "one.png").read_bytes() == (tmp_path / "new" / "lesion.png").read_bytes()


def test_folder__existing_images_stay_unless_told(masks: Path, tmp_path: Path, tiny_synth: Synthesizer) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "one.png").write_text("mine")
    with pytest.raises(OutputError, match="one.png exists already"):
        synthesize_folder(masks, tmp_path / "out", tiny_synth)
    assert images_below(tmp_path / "out") == ["one.png"]
    assert (tmp_path / "out" / "one.png").read_text() == "mine"
    synthesize_folder(masks, tmp_path / "out", tiny_synth, overwrite=True)
    assert images_below(tmp_path / "out") == NAMES


def test_folder__two_masks_for_one_image_are_refused(masks: Path, tmp_path: Path, tiny_synth: Synthesizer) -> None:
    save(masks / "one.jpg", disc())
    with pytest.raises(InputError, match=r"one.jpg and .*one.png would both become one.png"):
        synthesize_folder(masks, tmp_path / "out", tiny_synth)
    assert not (tmp_path / "out").exists()


def test_folder__masks_are_never_overwritten(masks: Path, tmp_path: Path, tiny_synth: Synthesizer) -> None:
    (tmp_path / "link").symlink_to(masks)
    for out in (masks, masks / "a", masks / "new", tmp_path / "link"):
        with pytest.raises(OutputError, match="is inside"):
            synthesize_folder(masks, out, tiny_synth, overwrite=True)
    for out, message in ((masks / "one.png", "is the mask itself"), (masks, "is the folder of the mask")):
        with pytest.raises(OutputError, match=message):
            synthesize_folder(masks / "one.png", out, tiny_synth, overwrite=True)
    assert len(images_below(masks)) == 7


def test_folder__places_that_cannot_be(masks: Path, tmp_path: Path, tiny_synth: Synthesizer) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        synthesize_folder(masks, tmp_path / "file", tiny_synth)
    with pytest.raises(OutputError, match="cannot write"):
        synthesize_folder(masks, tmp_path / "file" / "out", tiny_synth)
    with pytest.raises(InputError, match="does not exist"):
        synthesize_folder(tmp_path / "absent", tmp_path / "out", tiny_synth)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="holds no masks; looked for files ending in bmp, gif, jfif, jpe, jpeg"):
        synthesize_folder(tmp_path / "nothing", tmp_path / "out", tiny_synth)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        synthesize_folder(tmp_path / "pipe.png", tmp_path / "out", tiny_synth)


def test_folder__a_pipe_among_the_masks_does_not_hang(masks: Path, tmp_path: Path, tiny_synth: Synthesizer) -> None:
    os.mkfifo(masks / "pipe.png")
    summary = synthesize_folder(masks, tmp_path / "out", tiny_synth)
    assert len(summary.bad_masks) == 1
    assert "is not a plain file" in summary.bad_masks[0]


def test_folder__links_are_followed_and_loops_are_not(masks: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    save(tmp_path / "more" / "six.png", disc())
    (masks / "more").symlink_to(tmp_path / "more")
    (masks / "a" / "loop").symlink_to(masks)
    found = find_masks(masks).names
    assert found.count("more/six.png") == 1
    assert len(found) == 5


def test_folder__the_contact_sheet_shows_each_pair_side_by_side(masks: Path, tmp_path: Path) -> None:
    with Synthesizer.open(TINY_BUNDLE, backend="fake") as fake:
        synthesize_folder(masks, tmp_path / "out", fake, OutputOptions(contact_sheet=tmp_path / "sheets" / "sheet.png"))
    with Image.open(tmp_path / "sheets" / "sheet.png") as picture:
        sheet = np.array(picture.convert("RGB")).astype(int)
        assert "No model was run" in picture.info["Description"]
    white = (sheet == 255).all(2)
    lesion = (np.abs(sheet - [120, 72, 60]) < 3).all(2)
    shift = 176 + 4  # from a mask to its image
    together = (white[:, :-shift] & lesion[:, shift:]).sum()
    assert together > 0.95 * lesion.sum() > 1000


def test_folder__a_contact_sheet_may_not_hit_an_image_or_a_mask(
    masks: Path, tmp_path: Path, tiny_synth: Synthesizer
) -> None:
    for sheet, message in ((tmp_path / "out" / "one.png", "would overwrite"), (masks / "new.png", "for a mask")):
        with pytest.raises(OutputError, match=message):
            synthesize_folder(masks, tmp_path / "out", tiny_synth, OutputOptions(contact_sheet=sheet))
    with pytest.raises(ArgumentError, match=r"should end in \.png"):
        synthesize_folder(masks, tmp_path / "out", tiny_synth, OutputOptions(contact_sheet=tmp_path / "sheet.jpg"))
    assert not (tmp_path / "out").exists()
