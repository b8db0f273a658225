"""Folders as challenges ship them to a data folder."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image
from poor_disk import limit_names, refuse
from support import disc, save, slow
from synthetic_data import photograph, write_pair

from m2l_runtime.errors import InputError, MaskFileError, OutputError, PictureFileError
from m2l_train import PrepareOptions, prepare
from m2l_train.data.data_folder import open_data
from m2l_train.data.near_duplicates import descriptor, near_duplicates


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for index in range(20):
        write_pair(folder, f"ISIC_{index:07}", index)
    (folder / "ISIC_0000003_superpixels.png").write_bytes(b"x")
    (folder / "metadata.csv").write_text("a,b")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    names = (p for p in folder.rglob("*") if p.is_file() and not any(w in p.name for w in ("lock", "log", "report")))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in names}


def test_prepare__pairs_are_squashed_split_and_listed(source: Path, tmp_path: Path) -> None:
    report = prepare(source, source, tmp_path / "data", PrepareOptions(combined=True))
    assert (report.pairs, report.prepared, report.splits) == (20, 20, {"train": 18, "val": 2})
    data = open_data(tmp_path / "data")
    assert (len(data.train), len(data.val), data.stored_size, data.warnings) == (18, 2, 286, ())
    combined = open_data(tmp_path / "data" / "combined")
    for pair, both in zip(data.train, combined.train, strict=True):
        with Image.open(source / f"{pair.name}.jpg") as picture:
            expected = np.array(picture.resize((286, 286), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(np.array(Image.open(pair.image)), expected)
        with Image.open(source / f"{pair.name}_segmentation.png") as picture:
            mask = np.array(picture.resize((286, 286), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(np.array(Image.open(pair.mask)), mask)
        halves = np.array(Image.open(both.image))
        np.testing.assert_array_equal(halves, np.concatenate([np.repeat(mask[:, :, None], 3, 2), expected], 1))
    with (tmp_path / "data" / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"ISIC_{i:07}" for i in range(20)]
    assert {row["name"]: row["split"] for row in rows} == {
        p.name: s for s, pairs in (("train", data.train), ("val", data.val)) for p in pairs
    }
    assert json.loads((tmp_path / "data" / "dataset.json").read_text())["size"] == 286


def test_prepare__the_report_names_all_that_is_odd(source: Path, tmp_path: Path, m2l: CommandLine) -> None:
    masks = {n: source / f"ISIC_{n:07}_segmentation.png" for n in range(20)}
    images = {n: source / f"ISIC_{n:07}.jpg" for n in range(20)}
    masks[0].unlink()
    images[1].unlink()
    images[2].write_bytes(images[2].read_bytes()[:500])
    save(masks[3], np.zeros((160, 300), np.uint8))
    save(masks[4], disc(320, 80, 160, 160))
    save(masks[5], np.zeros((160, 160), np.uint8))
    save(masks[6], np.full((160, 160), 255, np.uint8))
    Image.open(images[7]).convert("L").save(images[7])
    Image.open(images[8]).convert("CMYK").save(images[8])
    outcome = m2l("prepare", source, source, tmp_path / "data")
    assert outcome.code == 3
    report = json.loads((tmp_path / "data" / "report.json").read_text())
    assert report["images_without_mask"] == ["ISIC_0000000.jpg"]
    assert report["masks_without_image"] == ["ISIC_0000001_segmentation.png"]
    assert [m.split(": ")[0].rsplit("/", 1)[1] for m in report["left_out"]] == [
        "ISIC_0000002.jpg",
        "ISIC_0000003_segmentation.png",
    ]
    assert report["sizes_differ"] == ["ISIC_0000004"]
    assert (report["empty_masks"], report["full_masks"]) == (["ISIC_0000005"], ["ISIC_0000006"])
    assert report["other_notes"] == {"greyscale": 1, "CMYK": 1, "smaller than --size, enlarged": 16}
    for words in (
        "16 pairs in",
        "1 without a mask: ISIC_0000000.jpg",
        "2 pairs left out",
        "1 of the photographs: CMYK",
    ):
        assert words in outcome.out
    assert "left out" in outcome.err


def test_prepare__nothing_that_pairs_is_an_error(source: Path, tmp_path: Path, m2l: CommandLine) -> None:
    (tmp_path / "empty").mkdir()
    outcome = m2l("prepare", tmp_path / "empty", tmp_path / "empty", tmp_path / "data")
    assert outcome.code == 1
    assert "nothing pairs" in outcome.err
    assert "found no pictures" in outcome.err
    with pytest.raises(InputError, match=r"nothing pairs in .* found ISIC_0000000_seg"):
        prepare(tmp_path / "empty", source, tmp_path / "data")
    for pattern, status, message in (
        ("NAME_expert", 1, "'NAME_expert': NAME is what"),
        ("NAME_*:", 2, "got 'NAME_*:'"),
    ):
        outcome = m2l("prepare", source, source, tmp_path / "data", "--pair-pattern", pattern)
        assert outcome.code == status
        assert message in outcome.err
    with pytest.raises(InputError, match="does not exist"):
        prepare(tmp_path / "absent", source, tmp_path / "data")
    for path in source.glob("*.jpg"):
        path.write_bytes(b"no")
    for _ in range(2):  # what made nothing does not block
        with pytest.raises(InputError, match="none of the 20 pairs can be used; the first: .*ISIC_0000000.jpg"):
            prepare(source, source, tmp_path / "data")


def test_prepare__splits_depend_on_names_and_seed_alone(source: Path, tmp_path: Path) -> None:
    def val(seed: int, share: float = 0.3) -> set[str]:
        out = tmp_path / f"data{seed}-{share}"
        prepare(
            source,
            source,
            out,
            overwrite=True,
            options=PrepareOptions(size=32, seed=seed, splits={"train": 1 - share, "val": share}),
        )
        return {pair.name for pair in open_data(out).val}

    assert len(val(1)) == 6
    assert val(1) != val(2)
    assert val(1, 0.1) < val(1, 0.3), "a larger share keeps those of a smaller one"
    for splits, message in (
        ({"train": 0.9, "val": 0.2}, "must add up to 1"),
        ({"train": 1.5, "val": -0.5}, "between 0 and 1"),
        ({"tr/ain": 1.0}, "cannot be the name of a split"),
    ):
        with pytest.raises(InputError, match=message):
            PrepareOptions(splits=splits)


def test_prepare__a_split_file(source: Path, tmp_path: Path) -> None:
    table = tmp_path / "split.csv"
    table.write_text("ID,Split\nisic_0000001,train\nISIC_0000002.jpg,train\nISIC_0000003,val\nISIC_0000099,val\n")
    report = prepare(source, source, tmp_path / "data", PrepareOptions(size=32, split_file=table))
    assert report.splits == {"train": 2, "val": 1}
    assert len(report.not_in_split_file) == 17
    assert report.only_in_split_file == ["isic_0000099"]
    for text, message in (
        ("a,b\n1,2\n", r"has the columns a, b; expected name \(or id, image\) and split"),
        ("name,split\nISIC_0000001,../x\n", "line 2: '../x' cannot be the name of a split"),
        ("name,split\nISIC_0000001,train\nISIC_0000001,val\n", "line 3: ISIC_0000001 is in two splits"),
        ("name,split\nother,train\n", "names none of the 20 pairs"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            prepare(source, source, tmp_path / "other", PrepareOptions(split_file=table))
    assert not (tmp_path / "other").exists()


def test_prepare__resuming_makes_what_is_missing_altered_or_changed(source: Path, tmp_path: Path) -> None:
    data, options = tmp_path / "data", PrepareOptions(size=64)
    prepare(source, source, data, options)
    expected = contents(data)
    with pytest.raises(OutputError, match="--resume goes on, --overwrite begins anew"):
        prepare(source, source, data, options)
    victims = sorted(data.glob("train/*/*.png"))
    victims[0].unlink()
    victims[-1].write_bytes(b"x")
    with (data / "prepare-log.jsonl").open("a") as file:
        file.write('{"torn')
    report = prepare(source, source, data, options, resume=True)
    assert (report.prepared, report.kept) == (20, 18)
    assert contents(data) == expected
    write_pair(source, "ISIC_0000004", 9)
    assert prepare(source, source, data, options, resume=True).kept == 19
    assert contents(data) != expected
    assert prepare(source, source, data, PrepareOptions(size=32), resume=True).kept == 0
    prepare(source, source, data, options, overwrite=True)
    assert not list(data.rglob("*.partial"))


def test_prepare__another_split_leaves_no_pair_in_two(source: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare(source, source, data, PrepareOptions(size=32, combined=True))
    for name in ("ISIC_0000001.jpg", "ISIC_0000002.jpg"):
        (source / name).unlink()
    (source / "ISIC_0000003.jpg").write_bytes(b"no")
    options = PrepareOptions(size=32, splits={"train": 0.5, "val": 0.3, "test": 0.2})
    report = prepare(source, source, data, options, resume=True)
    assert report.prepared == 17
    prepare(source, source, tmp_path / "undisturbed", options)
    assert contents(data) == contents(tmp_path / "undisturbed")
    assert not (data / "combined").exists()


def test_prepare__names_that_are_no_utf8(source: Path, tmp_path: Path) -> None:
    for suffix in (".jpg", "_segmentation.png"):
        (source / f"ISIC_0000001{suffix}").rename(source / f"caf\udce9\n{suffix}")
    prepare(source, source, tmp_path / "data", PrepareOptions(size=32))
    assert prepare(source, source, tmp_path / "data", PrepareOptions(size=32), resume=True).kept == 20
    data = open_data(tmp_path / "data")
    assert len(data.train) + len(data.val) == 20


@pytest.mark.parametrize("counts", [(5,), slow((1, 5, 9))])
def test_prepare__a_kill_leaves_what_can_be_gone_on_with(source: Path, tmp_path: Path, counts: tuple[int, ...]) -> None:
    prepare(source, source, tmp_path / "whole")
    command = [sys.executable, "-c", "from m2l_runtime.cli.main import main; main()", "prepare"]
    arguments = [str(source), str(source), str(tmp_path / "data"), "--workers", "1", "--resume"]
    for count in counts:
        process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(3000):
            if len(list((tmp_path / "data").glob("*/images/*.png"))) >= count:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    prepare(source, source, tmp_path / "data", resume=True)
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")


def test_prepare__places_that_cannot_be(source: Path, tmp_path: Path) -> None:
    for out, message in (
        (source / "data", "lie in one another"),
        (tmp_path, "lie in one another"),
        (source / "metadata.csv", "lie in one another"),
    ):
        with pytest.raises(OutputError, match=message):
            prepare(source, source, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="holds something that is no prepared data"):
        prepare(source, source, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_prepare__near_duplicates_across_splits_are_told(source: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for index in range(20):  # unlike one another, as photographs are
        blotches = Image.fromarray(generator.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        blotches.resize((160, 160), Image.Resampling.BICUBIC).save(source / f"ISIC_{index:07}.jpg")
    with Image.open(source / "ISIC_0000004.jpg") as picture:
        turned = picture.transpose(Image.Transpose.ROTATE_90).resize((160, 160)).point(lambda v: int(v * 0.8 + 20))
        turned.save(source / "ISIC_0000011.jpg", quality=60)
    table = tmp_path / "split.csv"
    rows = "".join(f"ISIC_{i:07},{'val' if i > 9 else 'train'}\n" for i in range(20))
    table.write_text(f"name,split\n{rows}")
    report = prepare(source, source, tmp_path / "data", PrepareOptions(size=64, split_file=table))
    assert [(one, other) for one, other, _ in report.near_duplicates] == [("train/ISIC_0000004", "val/ISIC_0000011")]


def test_prepare__likeness_is_the_correlation() -> None:
    one, other = (photograph(disc(32, 9, 10 + 8 * n, 16), n) for n in (0, 1))
    found = descriptor(one) @ descriptor(other)
    gray, other_gray = (np.array(Image.fromarray(image).convert("L"), np.float64).ravel() for image in (one, other))
    assert found == pytest.approx(np.corrcoef(gray, other_gray)[0, 1], abs=1e-5)
    assert [(r, c) for r, c, _ in near_duplicates(descriptor(one)[None], descriptor(one[::-1])[None])] == [(0, 0)]
    assert not list(near_duplicates(descriptor(np.zeros((9, 9, 3), np.uint8))[None], descriptor(one)[None]))


@pytest.mark.parametrize("arguments", [("--split", "train"), ("--split", "a=1,a=0"), ("--split", "train=x")])
def test_prepare__wrong_usage(source: Path, tmp_path: Path, m2l: CommandLine, arguments: tuple[str, str]) -> None:
    assert m2l("prepare", source, source, tmp_path / "data", *arguments).code == 2


def test_prepare__signals_leave_what_can_be_gone_on_with(source: Path, tmp_path: Path) -> None:
    seen: list[object] = []
    report = prepare(source, source, tmp_path / "data", on_pair=seen.append, should_stop=lambda: len(seen) > 2)
    assert report.was_stopped
    assert 2 < report.prepared < 20
    assert prepare(source, source, tmp_path / "data", resume=True).kept == report.prepared


KILL = (
    "import os, signal, sys\n"
    "what, at = sys.argv[1], int(sys.argv[2])\n"
    "real, count = getattr(os, what), 0\n"
    "def killing(*arguments, **options):\n"
    "    global count\n"
    "    count += 1\n"
    "    if count == at:\n"
    "        os.kill(os.getpid(), signal.SIGKILL)\n"
    "    return real(*arguments, **options)\n"
    "setattr(os, what, killing)\n"
    "from m2l_train import prepare\n"
    "from m2l_train.data.prepare import PrepareOptions\n"
    "prepare(sys.argv[3], sys.argv[3], sys.argv[4], overwrite='again' in sys.argv)\n"
)


def killed(what: str, at: int, source: Path, out: Path, *more: str) -> None:
    command = [sys.executable, "-c", KILL, what, str(at), str(source), str(out), *more]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("what", "at"), [slow("mkdir", 1), ("mkdir", 3), slow("mkdir", 5), slow("replace", 1), slow("replace", 3)]
)
def test_prepare__a_call_that_is_killed_early_is_gone_on_with_or_begun_anew(
    what: str, at: int, source: Path, tmp_path: Path
) -> None:
    prepare(source, source, tmp_path / "whole")
    for number, resume in enumerate((True, False)):
        killed(what, at, source, tmp_path / f"{number}")
        prepare(source, source, tmp_path / f"{number}", resume=resume, overwrite=not resume)
        assert contents(tmp_path / f"{number}") == contents(tmp_path / "whole")
        assert not list((tmp_path / f"{number}").rglob("*.partial"))


@pytest.mark.slow
def test_prepare__beginning_anew_may_be_killed_too(source: Path, tmp_path: Path) -> None:
    prepare(source, source, tmp_path / "data")
    expected = contents(tmp_path / "data")
    killed("truncate", 1, source, tmp_path / "data", "again")
    prepare(source, source, tmp_path / "data", resume=True)
    assert contents(tmp_path / "data") == expected


@pytest.mark.parametrize("at", [41, 42, 43])
def test_prepare__a_kill_while_tables_are_written_leaves_no_temporary_file(
    at: int, source: Path, tmp_path: Path
) -> None:
    killed("replace", at, source, tmp_path / "data")
    prepare(source, source, tmp_path / "data", resume=True)
    assert not list((tmp_path / "data").rglob("*.partial"))


@pytest.mark.parametrize("at", [6])
@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_prepare__what_a_kill_left_unrecorded_is_in_no_second_split(
    at: int, how: str, source: Path, tmp_path: Path
) -> None:
    for path in source.iterdir():
        if not path.name.startswith(("ISIC_0000000", "ISIC_0000001", "ISIC_0000002", "ISIC_0000003")):
            path.unlink()
    killed("replace", at, source, tmp_path / "data")
    turned = PrepareOptions(size=32, splits={"val": 0.9, "train": 0.1})
    prepare(source, source, tmp_path / "data", turned, resume=how == "resume", overwrite=how == "overwrite")
    prepare(source, source, tmp_path / "undisturbed", turned)
    assert contents(tmp_path / "data") == contents(tmp_path / "undisturbed")


def test_prepare__splits_of_other_names_are_not_taken_for_pairs_side_by_side(
    m2l: CommandLine, source: Path, tmp_path: Path
) -> None:
    done = m2l("prepare", source, source, tmp_path / "data", "--split", "training=0.8,validation=0.2")
    assert done.code == 0
    assert "warning: there is no split called train, which is what m2l train reads" in done.out
    with pytest.raises(InputError, match="has the splits training, validation, and none called train; rename one"):
        open_data(tmp_path / "data")
    assert len(open_data(tmp_path / "data" / "training").train) == 16


def test_prepare__a_split_that_gets_no_pair_is_told(source: Path, tmp_path: Path) -> None:
    report = prepare(source, source, tmp_path / "data", PrepareOptions(splits={"train": 0.99, "val": 0.01}))
    assert report.warnings == ["no pair is in the split val"]


def test_prepare__pipes_hold_nothing_up(source: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "splits.csv")
    with pytest.raises(InputError, match=r"splits\.csv: it is not a plain file"):
        prepare(source, source, tmp_path / "data", PrepareOptions(split_file=tmp_path / "splits.csv"))
    prepare(source, source, tmp_path / "data")
    first = min((tmp_path / "data" / "train" / "images").iterdir())
    first.unlink()
    os.mkfifo(first)
    assert open_data(tmp_path / "data").stored_size == 286


def test_prepare__a_split_file_of_absurd_fields(source: Path, tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("name,split\n" + "x" * 200_000 + ",train\n")
    with pytest.raises(InputError, match=r"splits\.csv is no CSV file of splits: field larger"):
        prepare(source, source, tmp_path / "data", PrepareOptions(split_file=str(tmp_path / "splits.csv")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "a"}, "got 'a'"),
        ({"size": 286.0}, "size must be a whole number, a text or a tuple (a whole number, a whole number), got 286.0"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"seed": 1 << 64}, "the seed must be between 0 and 9223372036854775807, got 18446744073709551616"),
        ({"splits": {"train": "1"}}, "the share of split 'train' must be a number, got '1'"),
        ({"splits": {5: 1.0}}, "the name of a split must be a string, got 5"),
        ({"split_file": 5}, "split_file must be a text, a path or None, got 5"),
        ({"split_file": "a\0b"}, "the split file must be a path without NUL"),
        ({"splits": None}, "splits must be a mapping, got None"),
    ],
)
def test_prepare__values_of_other_types(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        PrepareOptions(**options)


def test_prepare__paths_that_are_none(source: Path, tmp_path: Path) -> None:
    for images, masks, out in (("a\0", source, "o"), (source, "a\0", "o"), (source, source, "a\0")):
        with pytest.raises(InputError, match="must be a path without NUL"):
            prepare(images, masks, tmp_path / out if out == "o" else out)
    with pytest.raises(InputError, match=r"images must be a text or a path, got 5 \(int\)"):
        prepare(cast(str, 5), source, tmp_path / "o")
    with pytest.raises(InputError, match=r"workers must be a whole number or None, got 1\.5"):
        prepare(source, source, tmp_path / "data", workers=cast(int, 1.5))


def test_prepare__splits_that_are_meant_to_be_empty_or_not_reached_are_no_warning(source: Path, tmp_path: Path) -> None:
    options = PrepareOptions(size=32, splits={"train": 1.0, "val": 0.0})
    assert prepare(source, source, tmp_path / "data", options).warnings == []
    stopped = prepare(source, source, tmp_path / "stopped", should_stop=lambda: True)
    assert (stopped.was_stopped, stopped.warnings) == (True, [])


def test_prepare__combined_pictures_of_other_splits_are_not_mixed(source: Path, tmp_path: Path) -> None:
    splits = {"training": 0.8, "validation": 0.2}
    prepare(source, source, tmp_path / "data", PrepareOptions(size=32, splits=splits, combined=True))
    with pytest.raises(InputError, match="combined has the splits training, validation, and none called train"):
        open_data(tmp_path / "data" / "combined")
    assert len(open_data(tmp_path / "data" / "combined" / "training").train) == 16


def test_prepare__the_help_says_what_a_split_file_leaves_out(source: Path, tmp_path: Path, m2l: CommandLine) -> None:
    assert "left out on purpose" in " ".join(m2l("prepare", "--help").out.split())
    (tmp_path / "splits.csv").write_text("name,split\nISIC_0000001,train\nISIC_0000002,train\n")
    done = m2l("prepare", source, source, tmp_path / "data", "--split-file", tmp_path / "splits.csv")
    assert (done.code, "18 not in the split file, left out" in done.out) == (0, True)


def test_prepare__numpys_numbers_are_numbers() -> None:
    assert type(PrepareOptions(size=cast(int, np.int64(300))).size) is int


def test_prepare__names_that_look_alike_in_utf8_stay_two(source: Path, tmp_path: Path) -> None:
    try:
        write_pair(source, "caf\udce9", 1)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system holds UTF-8 names alone")
    write_pair(source, "caf\\udce9", 2)
    report = prepare(source, source, tmp_path / "data")
    assert (report.pairs, len(report.ambiguous)) == (22, 0)


def test_prepare__a_picture_that_does_not_fit_in_memory_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m2l_runtime.masks import mask_file

    real = mask_file.to_gray
    calls = iter(range(1000))

    def starved(picture: Any) -> Any:
        if next(calls) == 3:
            raise MemoryError
        return real(picture)

    monkeypatch.setattr(mask_file, "to_gray", starved)
    report = prepare(source, source, tmp_path / "data", workers=1)
    assert (report.prepared, len(report.left_out)) == (19, 1)
    assert "does not fit in memory" in report.left_out[0]


def test_prepare__a_mask_that_does_not_fit_in_memory_is_named(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from m2l_runtime.masks import mask_file

    def starved(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(mask_file, "to_gray", starved)
    with pytest.raises(MaskFileError, match=r"ISIC_0000000_segmentation\.png: does not fit in memory"):
        mask_file.read_mask(source / "ISIC_0000000_segmentation.png", (64, 64))


def test_prepare__a_header_that_does_not_fit_in_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from m2l_runtime.masks import image_file

    def starved(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", starved)
    with pytest.raises(PictureFileError, match="does not fit in memory: a file of 3 bytes"):
        image_file.decode(b"abc")


def test_prepare__going_on_without_options_keeps_those_of_before(
    m2l: CommandLine, source: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    begun = ("prepare", source, source, data)
    assert m2l(*begun, "--size", 64, "--combined", "--split", "train=0.6,val=0.2,test=0.2", "--seed", 3).code == 0
    before = contents(data)
    done = m2l(*begun, "--resume")
    assert (done.code, "20 of them made earlier and kept" in done.out) == (0, True)
    assert contents(data) == before
    assert prepare(source, source, data, resume=True).kept == 20
    assert m2l(*begun, "--resume", "--no-combined").code == 0
    assert not (data / "combined").exists()
    assert {p.name for p in data.iterdir() if p.is_dir()} == {"train", "val", "test"}
    (data / "prepare-settings.json").write_text("{")
    broken = m2l(*begun, "--resume")
    assert (broken.code, "is damaged" in broken.err) == (1, True)


def test_prepare__two_ways_to_split_at_once(m2l: CommandLine, source: Path, tmp_path: Path) -> None:
    done = m2l("prepare", source, source, tmp_path / "d", "--split", "train=1", "--split-file", "s.csv")
    assert (done.code, (tmp_path / "d").exists()) == (2, False)


def test_prepare__names_of_several_files_are_told_by_the_exit_status(
    m2l: CommandLine, source: Path, tmp_path: Path
) -> None:
    (source / "ISIC_0000001.jpeg").write_bytes((source / "ISIC_0000001.jpg").read_bytes())
    assert m2l("prepare", source, source, tmp_path / "d").code == 3


@pytest.mark.parametrize("tells_ahead", [False, True])
def test_prepare__a_name_that_the_disk_does_not_take_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells_ahead: bool
) -> None:
    for index, name in enumerate(["a", "b", "n" * 130]):
        write_pair(tmp_path / "source", name, index)
    limit_names(monkeypatch, tmp_path / "data", 130, tells_ahead=tells_ahead)
    options = PrepareOptions(size=32, splits={"train": 1.0})
    source, data = tmp_path / "source", tmp_path / "data"
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        report = prepare(source, source, data, options, resume=resume, overwrite=overwrite)
        assert (report.pairs, report.prepared, len(report.left_out)) == (3, 2, 1)
        assert "n" * 130 + ".jpg: the disk takes no file of its name (File name too long)" in report.left_out[0]
    assert sorted(path.name for path in (tmp_path / "data").rglob("*.png")) == ["a.png", "a.png", "b.png", "b.png"]


def test_prepare__goes_on_where_the_file_system_has_no_locks(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, 524, "flock")
    refuse(monkeypatch, 22, "fsync")
    refuse(monkeypatch, 1, "chmod")
    notes: list[str] = []
    assert prepare(source, source, tmp_path / "data", PrepareOptions(size=32), on_note=notes.append).prepared == 20
    assert len(notes) == 1
    assert "has no locks" in notes[0]
