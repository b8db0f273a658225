"""Splits that lie inside the folders of photographs and masks, and groups that no split may cut."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine
from support import disc, save
from synthetic_data import photograph

from m2l_runtime.errors import InputError
from m2l_train import PrepareOptions, prepare
from m2l_train.data.data_folder import open_data


def write(folder: Path, *names: str) -> Path:
    """Write a photograph below images/ and a mask below masks/ for each name; IMAGE:MASK where these differ."""
    for number, name in enumerate(names):
        image, _, mask = name.partition(":")
        shape = disc(48, 8 + number % 9, 24, 20 + number % 5)
        for kind, path, array in (("images", image, photograph(shape, number)), ("masks", mask or image, shape)):
            target = folder / kind / f"{path}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            save(target, array)
    return folder


THREE = ("train/a", "train/b", "train/c", "val/d", "val/e", "test/f")


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val", "val2017"])
def test_split_folders__training_reads_those_inside_images(tmp_path: Path, val: str) -> None:
    found = open_data(write(tmp_path, *(name.replace("val/", f"{val}/") for name in THREE)))
    assert [pair.name for pair in found.train] == ["a", "b", "c"]
    assert [pair.name for pair in found.val] == ["d", "e"]
    assert found.warnings == ()
    assert found.layout == "images/train with masks/train"


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train_set", "val_set"),
        ("trn", "dev"),
        ("TrainImages", "ValImages"),
        ("ISIC2018_Training_Input", "ISIC2018_Validation_Input"),
    ],
)
def test_split_folders__a_split_is_one_word_of_a_name(tmp_path: Path, train: str, val: str) -> None:
    names = [name.replace("train/", f"{train}/").replace("val/", f"{val}/") for name in THREE[:5]]
    found = open_data(write(tmp_path, *names))
    assert [pair.name for pair in found.train] == ["a", "b", "c"]
    assert [pair.name for pair in found.val] == ["d", "e"]


@pytest.mark.parametrize("names", [("latest/a", "contest/b"), ("constrained/a", "interval/b"), ("test-train/a", "x/b")])
def test_split_folders__parts_of_words_are_no_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    found = open_data(write(tmp_path, *names))
    assert [pair.name for pair in found.train] == ["a", "b"]


def test_split_folders__splits_further_down_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path, *(f"part/{name}" for name in THREE))
    with pytest.raises(InputError, match="images/part holds the splits test, train, val, one folder further down"):
        open_data(tmp_path)


@pytest.mark.parametrize("flat", ["images", "masks"])
def test_split_folders__one_side_may_be_flat(tmp_path: Path, flat: str) -> None:
    names = [name if flat == "neither" else f"{name}:{name[-1]}" for name in THREE]
    if flat == "images":
        names = [":".join(name.split(":")[::-1]) for name in names]
    found = open_data(write(tmp_path, *names))
    assert [pair.name for pair in found.train] == ["a", "b", "c"]
    assert [pair.name for pair in found.val] == ["d", "e"]


def test_split_folders__equal_names_in_two_splits_are_two_pairs(tmp_path: Path) -> None:
    found = open_data(write(tmp_path / "in", "train/0", "train/1", "val/0"))
    assert [pair.name for pair in found.train] == ["train-0", "train-1"]
    assert [pair.name for pair in found.val] == ["val-0"]
    report = prepare(tmp_path / "in" / "images", tmp_path / "in" / "masks", tmp_path / "out", PrepareOptions(size=32))
    assert report.splits == {"train": 2, "val": 1}


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders__val_has_other_names(tmp_path: Path, val: str) -> None:
    for split, names in (("train", "abc"), (val, "de")):
        write(tmp_path / split, *names)
    assert len(open_data(tmp_path).val) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/a", "train/b", "val/c", "d"), "pictures that are in none of them .d.png"),
        (("train/a", "train/b", "val/c", "extra/d"), "pictures that are in none of them"),
        (("train/a", "training/b", "val/c"), "holds the split train twice"),
        (("val/a", "test/b"), "has the splits test, val, and none called train"),
        (("train/a", "train/b", "val/c", "train/d:val/d"), "1 photograph without a mask .train/d.png"),
    ],
)
def test_split_folders__what_is_not_clear_is_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_data(write(tmp_path, *names))


def test_split_folders__prepare_keeps_them(tmp_path: Path, m2l: CommandLine) -> None:
    source = write(tmp_path / "in", *THREE)
    done = m2l("prepare", source / "images", source / "masks", tmp_path / "out", "--size", 32)
    assert done.code == 0
    assert "the splits that lie in the folders are kept: test, train, val" in done.out
    rows = list(csv.DictReader((tmp_path / "out" / "pairs.csv").read_text().splitlines()))
    assert {f"{row['split']}/{row['name']}" for row in rows} == set(THREE)
    with pytest.raises(InputError, match="has splits of its own .test, train, val.*leave out --split"):
        prepare(
            source / "images", source / "masks", tmp_path / "other", PrepareOptions(splits={"train": 0.5, "val": 0.5})
        )


def groups(path: Path, names: list[str], column: str = "patient_id") -> Path:
    rows = "".join(f"{name}.jpg,{'p' + str(number // 4)}\n" for number, name in enumerate(names))
    path.write_text(f"image,{column}\n{rows}")
    return path


@pytest.mark.parametrize("seed", range(5))
def test_split_folders__no_group_is_cut(tmp_path: Path, seed: int) -> None:
    names = [f"n{number:02}" for number in range(40)]
    source = write(tmp_path / "in", *names)
    table = groups(tmp_path / "groups.csv", names)
    options = PrepareOptions(size=16, seed=seed, splits={"train": 0.7, "val": 0.2, "test": 0.1}, group_file=table)
    report = prepare(source / "images", source / "masks", tmp_path / "out", options)
    assert report.splits == {"train": 28, "val": 8, "test": 4}
    rows = csv.DictReader((tmp_path / "out" / "pairs.csv").read_text().splitlines())
    places: dict[str, set[str]] = {}
    for row in rows:
        places.setdefault(f"p{int(row['name'][1:]) // 4}", set()).add(row["split"])
    assert all(len(splits) == 1 for splits in places.values())


def test_split_folders__splits_that_cut_a_group_are_refused(tmp_path: Path) -> None:
    names = [f"n{number:02}" for number in range(8)]
    source = write(tmp_path / "in", *names)
    table = groups(tmp_path / "groups.csv", names, "who")
    (tmp_path / "splits.csv").write_text(
        "name,split\n" + "".join(f"{n},{'train' if n < 'n05' else 'val'}\n" for n in names)
    )
    arguments = (source / "images", source / "masks", tmp_path / "out")
    with pytest.raises(InputError, match="cut 1 group of .*groups.csv, such as group p1: n04 is in train, n05"):
        prepare(*arguments, PrepareOptions(split_file=tmp_path / "splits.csv", group_file=table, group_column="who"))
    with pytest.raises(InputError, match=r"has the columns image, who; expected name .* and group or group_id"):
        prepare(*arguments, PrepareOptions(group_file=table))
    inside = write(tmp_path / "inside", *(f"{'train' if n < 'n05' else 'val'}/{n}" for n in names))
    with pytest.raises(InputError, match="the splits cut 1 group"):
        prepare(
            inside / "images",
            inside / "masks",
            tmp_path / "out",
            PrepareOptions(group_file=table, group_column="who"),
        )


@pytest.mark.parametrize("named", ["x{}", "x{}_downsampled", "X{}_downsampled.jpg"])
def test_split_folders__tables_name_pairs_of_ones_own_pattern(tmp_path: Path, named: str) -> None:
    source = tmp_path / "in"
    write(source, *(f"x{n}_downsampled:x{n}_expert" for n in range(6)))
    names = [named.format(n) for n in range(6)]
    (tmp_path / "s.csv").write_text("id,split\n" + "".join(f"{n},{'val' if '5' in n else 'train'}\n" for n in names))
    (tmp_path / "g.csv").write_text("id,lesion\n" + "".join(f"{name},{n // 2}\n" for n, name in enumerate(names)))
    arguments = (source / "images", source / "masks", tmp_path / "out")
    pattern = "NAME_downsampled:NAME_expert"
    report = prepare(*arguments, PrepareOptions(size=16, pair_pattern=pattern, split_file=tmp_path / "s.csv"))
    assert (report.splits, report.only_in_split_file) == ({"train": 5, "val": 1}, [])
    halves = {"train": 2 / 3, "val": 1 / 3}
    report = prepare(
        *arguments,
        PrepareOptions(size=16, pair_pattern=pattern, group_file=tmp_path / "g.csv", splits=halves),
        overwrite=True,
    )
    assert (report.splits, report.not_in_group_file) == ({"train": 4, "val": 2}, [])


def test_split_folders__pairs_in_no_group_are_named(tmp_path: Path) -> None:
    source = write(tmp_path / "in", *"abcdef")
    table = groups(tmp_path / "groups.csv", list("abcd"))
    report = prepare(source / "images", source / "masks", tmp_path / "out", PrepareOptions(size=16, group_file=table))
    assert (report.prepared, report.not_in_group_file) == (6, ["e", "f"])
    np.testing.assert_equal(sum(report.splits.values()), 6)
