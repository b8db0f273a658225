"""The callables for Ray Data, without Ray: they are held against runs of `m2l synth`."""

from __future__ import annotations

import doctest
import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image
from support import TINY_BUNDLE, disc, save

from m2l_runtime import Encoding, OutputOptions, Synthesizer, ray_data
from m2l_runtime.errors import ArgumentError, BundleNotFound, InputError, OutputError
from m2l_runtime.ray_data import EngineOptions, LesionFileWriter, LesionSynthesizer, plan_files

ENGINE = EngineOptions(backend="fake")
"""Of the model inside the package, which takes an appearance and noise."""


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    folder = tmp_path / "masks"
    (folder / "b").mkdir(parents=True)
    save(folder / "a.png", disc(100, 30, 50, 50))
    save(folder / "b" / "c.png", disc(300, 90, 150, 150))
    save(folder / "empty.png", np.zeros((64, 64), np.uint8))
    (folder / "zz.png").write_bytes(b"no picture")
    return folder


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).as_posix().startswith(".m2l")
    }


def rows_of(masks: Path, kind: str) -> dict[str, Any]:
    names = ["a.png", "b/c.png", "empty.png", "zz.png"]
    column: list[Any] = [masks / name if kind == "path" else (masks / name).read_bytes() for name in names]
    if kind == "path":
        column = [str(path) for path in column]
    elif kind == "mapping":
        column = [{"bytes": content, "path": None} for content in column]
    cells = np.empty(len(names), object)
    cells[:] = column
    return {"name": np.array(names, object), "mask": cells}


@pytest.mark.parametrize("kind", ["path", "bytes", "mapping"])
def test_lesion_synthesizer__gives_the_bytes_of_m2l_synth(
    tmp_path: Path, masks: Path, m2l: CommandLine, kind: str
) -> None:
    options = ("--backend", "fake", "--seed", 7, "--threads", 1, "--streams", 1)
    assert m2l("synth", masks, tmp_path / "out", "--pairs", *options).code == 3
    made = LesionSynthesizer(seed=7, engine=ENGINE)({**rows_of(masks, kind), "label": np.arange(4)})
    for place, name in enumerate(("a", "b/c", "empty")):
        assert made["image"][place] == (tmp_path / "out" / "images" / f"{name}.png").read_bytes()
        assert made["mask"][place] == (tmp_path / "out" / "masks" / f"{name}.png").read_bytes()
        assert made["error"][place] is None
        with Image.open(io.BytesIO(made["image"][place])) as picture:
            assert picture.info["m2l-seed"] == str(made["seed"][place])
    assert list(made["note"]) == [None, None, "empty", None]
    assert made["image"][3] is None
    assert made["mask"][3] is None
    assert made["seed"].dtype == np.uint64
    assert made["seed"][3] == 0
    assert "zz.png: is not a PNG" in made["error"][3]
    assert list(made["label"]) == [0, 1, 2, 3]


def test_lesion_synthesizer__samples_are_those_of_m2l_synth(tmp_path: Path, masks: Path, m2l: CommandLine) -> None:
    (masks / "zz.png").unlink()
    options = ("--backend", "fake", "--samples", 2, "--format", "webp", "--appearance", "lesion_L=35")
    assert m2l("synth", masks, tmp_path / "out", *options).code == 0
    paths = np.array([str(masks / "a.png")] * 2, object)
    rows = {"name": np.array(["a.png"] * 2, object), "mask": paths, "sample": np.array([2, 1])}
    synthesize = LesionSynthesizer(appearance="lesion_L=35", encoding=Encoding("webp"), engine=ENGINE)
    made = synthesize(rows)
    assert [hashlib.sha256(image).hexdigest() for image in made["image"]] == [
        files_of(tmp_path / "out")[f"a_sample{sample}.webp"] for sample in (2, 1)
    ]
    assert made["seed"][0] != made["seed"][1]


def test_lesion_synthesizer__arrays_of_any_size_and_one_block_of_them() -> None:
    synthesize = LesionSynthesizer(engine=ENGINE)
    block = np.stack([disc(64, 20, 30, 30), disc(64, 10, 30, 30)])
    names = np.array(["a", "b"])
    made = synthesize({"name": names, "mask": block})
    loose = np.empty(2, object)
    loose[:] = list(block)
    assert list(synthesize({"name": names, "mask": loose})["image"]) == list(made["image"])
    with Image.open(io.BytesIO(made["image"][0])) as picture:
        assert picture.size == (256, 256)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"mask": None}, "a.png: there is no mask in its row"),
        ({"mask": float("nan")}, "a.png: there is no mask in its row"),
        ({"mask": b""}, "a.png: is empty"),
        ({"mask": {"bytes": None, "path": None}}, "a.png: there is no mask in its row"),
        ({"mask": "absent/x.png"}, "absent/x.png: cannot be read"),
        ({"mask": np.full((9, 9), -1)}, "a.png: holds values from -1"),
        ({"mask": 5}, "a.png: is no mask"),
        ({"mask": np.zeros((3, 9, 9, 9))}, "a.png: has the shape"),
        ({"name": None}, "row 0 of the batch: its name must be a text"),
        ({"name": ""}, "row 0 of the batch: its name must be a text"),
        ({"sample": 0}, "a.png: its sample must be a number from 1"),
        ({"sample": "x"}, "a.png: its sample must be a number from 1"),
    ],
)
def test_lesion_synthesizer__a_bad_row_is_one_row_with_an_error(row: dict[str, object], message: str) -> None:
    good = {"name": "a.png", "mask": disc(64, 20, 30, 30), "sample": 1}
    columns: dict[str, Any] = {key: np.empty(2, object) for key in good}
    for key, value in good.items():
        columns[key][0], columns[key][1] = {**good, **row}[key], value
    made = LesionSynthesizer(engine=ENGINE)(columns)
    assert message in made["error"][0]
    assert made["image"][0] is None
    assert made["error"][1] is None
    assert made["image"][1] is not None


def test_lesion_synthesizer__a_generator_of_the_mask_alone_has_no_seed(tiny_synth: Synthesizer) -> None:
    engine = EngineOptions(backend="onnxruntime", device="cpu")
    made = LesionSynthesizer(TINY_BUNDLE, engine=engine)(
        {"name": np.array(["a", "a"]), "mask": np.stack([disc(32, 9, 15, 15)] * 2), "sample": np.array([1, 2])}
    )
    assert list(made["seed"]) == [0, 0]
    assert "takes the mask alone" in made["error"][1]
    with Image.open(io.BytesIO(made["image"][0])) as picture:
        assert np.array_equal(np.asarray(picture), tiny_synth(disc(32, 9, 15, 15)[None])[0])


def test_lesion_synthesizer__what_is_wrong_with_all_rows_ends_the_job() -> None:
    with pytest.raises(ArgumentError, match="rows have no column 'mask'; expected mask and name, got name"):
        LesionSynthesizer(engine=ENGINE)({"name": np.array(["a"])})
    with pytest.raises(BundleNotFound, match="does not exist"):
        LesionSynthesizer("absent", engine=ENGINE)


def write_all(masks: object, out: Path, options: OutputOptions, **more: Any) -> list[dict[str, Any]]:
    """As Ray calls a writer: rows in any order, one in a batch, perhaps on several actors."""
    planned = {key: more[key] for key in ("samples", "resume") if key in more}
    plan = plan_files(masks, out, options, **planned)  # type: ignore[arg-type]
    actors = [LesionFileWriter(masks, out, options=options, engine=ENGINE, **more) for _ in range(2)]  # type: ignore[arg-type]
    rows: list[dict[str, Any]] = []
    for turn, row in enumerate(reversed(plan)):
        made = actors[turn % 2]({key: [value] for key, value in row.items()})
        rows += ({key: column[place] for key, column in made.items()} for place in range(len(made["name"])))
    return rows


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
@pytest.mark.parametrize("samples", [1, 3])
def test_lesion_file_writer__writes_the_files_of_one_run(
    tmp_path: Path, masks: Path, m2l: CommandLine, kind: Any, samples: int
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    flags = ("--backend", "fake", "--seed", 5, "--samples", samples, "--format", kind, "--masks-per-file", 2)
    assert m2l("synth", masks, tmp_path / "out", *flags).code == 3
    options = OutputOptions(format=kind, masks_per_file=2)
    rows = write_all(masks, tmp_path / "ray", options, seed=5, samples=samples)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "out")
    assert len(files_of(tmp_path / "ray")) == (2 if samples == 1 else 5)
    assert len(rows) == 4 * samples
    bad = [row for row in rows if row["error"] is not None]
    assert [row["file"] for row in bad] == [None] * samples
    assert all("zz.png: is not a PNG" in row["error"] for row in bad)
    assert all(row["seed"] > 0 for row in rows if row["error"] is None)


def test_lesion_file_writer__m2l_synth_takes_its_files_for_its_own(
    tmp_path: Path, masks: Path, m2l: CommandLine
) -> None:
    options = OutputOptions(format="webdataset", masks_per_file=2)
    write_all(masks, tmp_path / "out", options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    flags = ("--backend", "fake", "--format", "webdataset", "--masks-per-file", 2, "--threads", 1, "--resume")
    done = m2l("synth", masks, tmp_path / "out", *flags)
    assert done.out.startswith("0 images in ")
    assert "3 images of an earlier run kept" in done.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")} == before


def test_lesion_file_writer__resumes_and_makes_again_what_is_gone_or_altered(tmp_path: Path) -> None:
    options = OutputOptions(format="webdataset", masks_per_file=2)
    first = write_all("shapes:6", tmp_path / "out", options)
    whole = files_of(tmp_path / "out")
    with pytest.raises(OutputError, match="holds an earlier run"):
        plan_files("shapes:6", tmp_path / "out", options)
    (tmp_path / "out" / "lesions-000000.tar").unlink()
    (tmp_path / "out" / "lesions-000001.tar").write_bytes(b"altered")
    leftover = tmp_path / "out" / ".m2l-1-of-3-0123.partial"
    leftover.write_bytes(b"of a worker that was killed")
    kept = tmp_path / "out" / "lesions-000002.tar"
    age = kept.stat().st_mtime_ns
    again = write_all("shapes:6", tmp_path / "out", options, resume=True)
    assert files_of(tmp_path / "out") == whole
    assert kept.stat().st_mtime_ns == age
    assert not leftover.exists()
    assert again == first


def test_lesion_file_writer__draws_the_masks_of_one_run(tmp_path: Path, m2l: CommandLine) -> None:
    spec = "shapes:7,kinds=star+blob,seed=3"
    flags = ("--backend", "fake", "--format", "webdataset", "--masks-per-file", 3)
    assert m2l("synth", spec, tmp_path / "out", *flags).code == 0
    rows = write_all(spec, tmp_path / "ray", OutputOptions(format="webdataset", masks_per_file=3))
    assert len(rows) == 7
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "out") != {}


def test_examples__of_the_module_give_what_they_say() -> None:
    results = doctest.testmod(ray_data, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 10
    assert results.failed == 0


def test_lesion_file_writer__does_not_go_on_with_a_run_of_another_bundle(tmp_path: Path) -> None:
    options = OutputOptions(format="webdataset", masks_per_file=2)
    write_all("shapes:2", tmp_path / "out", options)
    with pytest.raises(OutputError, match="holds a run of another bundle"):
        write_all("shapes:2", tmp_path / "out", options, resume=True, bundle=TINY_BUNDLE)


def test_plan_files__refuses_what_cannot_be_dealt_out(tmp_path: Path, masks: Path) -> None:
    with pytest.raises(ArgumentError, match="files hold many images in webdataset and parquet, not in png"):
        plan_files(masks, tmp_path / "out", OutputOptions())
    with pytest.raises(InputError, match="is no folder on this machine"):
        plan_files(masks / "a.png", tmp_path / "out")
    with pytest.raises(InputError, match="is no folder on this machine"):
        LesionFileWriter(tmp_path / "absent", tmp_path / "out", engine=ENGINE)
    shutil.rmtree(masks)
    masks.mkdir()
    with pytest.raises(InputError, match="holds no masks"):
        plan_files(masks, tmp_path / "out")


@pytest.fixture(autouse=True)
def _no_output_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
