"""What users import: exactly these members, each with an example that runs; old module names say the new ones."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
from public_api import (
    examples_of,
    exported_members,
    import_error_of,
    members_without_example,
    names_new_module,
    run_examples,
)

from m2l_runtime._moved import MOVED

EXPORTED = {
    "m2l_runtime": [
        "AppearanceChoice",
        "Bundle",
        "DrawnMasks",
        "Encoding",
        "Images",
        "M2LError",
        "MaskFile",
        "MaskSource",
        "Masks",
        "OutputOptions",
        "Result",
        "RunCallbacks",
        "Shapes",
        "Summary",
        "Synthesizer",
        "iterate_folder",
        "open_bundle",
        "open_source",
        "read_mask",
        "synthesize_folder",
    ],
    "m2l_runtime.backends": [
        "BACKENDS",
        "Backend",
        "BackendModule",
        "BackendOptions",
        "BackendSettings",
        "ModelSource",
        "choose_backend",
        "load_backend",
    ],
    "m2l_runtime.bench": ["BenchConfig", "BenchOptions", "BenchReport", "Round", "Row", "Statistic", "bench"],
    "m2l_runtime.bundle": [
        "AppearanceTable",
        "Bundle",
        "FileEntry",
        "Golden",
        "Manifest",
        "ModelFile",
        "Network",
        "Parity",
        "PlanFile",
        "Precision",
        "Provenance",
        "Resampling",
        "TensorSpec",
        "Training",
        "open_bundle",
        "parse_manifest",
        "write_bundle",
    ],
    "m2l_runtime.masks.sources": ["DrawnMasks", "MaskSource", "Shapes", "open_source"],
}

RENAMED = [
    ("m2l_runtime.backends", "Settings", "m2l_runtime.backends.BackendSettings"),
    ("m2l_runtime.bench", "Way", "m2l_runtime.bench.BenchConfig"),
    ("m2l_runtime.bench", "Figure", "m2l_runtime.bench.Statistic"),
    ("m2l_runtime.bundle", "Flavour", "m2l_runtime.bundle.schema.TensorRtVariant"),
]

NEEDED = {"m2l_runtime.masks.sources.": ("scipy", "matplotlib")}


@pytest.mark.parametrize("package", EXPORTED)
def test_exported_members__are_these_and_can_be_imported(package: str) -> None:
    assert exported_members(package) == sorted(EXPORTED[package])
    module = importlib.import_module(package)
    assert [name for name in EXPORTED[package] if getattr(module, name, None) is None] == []


@pytest.mark.parametrize("package", EXPORTED)
def test_exported_members__all_have_an_example(package: str) -> None:
    assert members_without_example(package) == []


@pytest.mark.parametrize(("package", "name"), [(package, name) for package in EXPORTED for name in EXPORTED[package]])
def test_examples__give_what_they_say(package: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_examples(examples_of(package, name)) == ""


@pytest.mark.parametrize("package", ["m2l_runtime", "m2l_runtime.bundle", "m2l_runtime.masks.sources"])
def test_package_docstrings__give_what_they_say(package: str) -> None:
    module = importlib.import_module(package)
    assert run_examples(doctest.DocTestFinder(recurse=False).find(module, package)) == ""


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_moved_modules__name_the_new_one(old: str, new: str) -> None:
    message = import_error_of("m2l_runtime", old)
    assert names_new_module(message, "m2l_runtime", MOVED, old), message
    for prefix, packages in NEEDED.items():
        if f"{new}.".startswith(prefix.removeprefix("m2l_runtime.")):
            for package in packages:
                pytest.importorskip(package)
    if new == "output.writers.parquet":
        pytest.importorskip("pyarrow")
    importlib.import_module(f"m2l_runtime.{new}")


@pytest.mark.parametrize(("package", "old", "new"), RENAMED)
def test_renamed_members__name_the_new_one(package: str, old: str, new: str) -> None:
    with pytest.raises(ImportError, match=f"{package}.{old} is now {new}"):
        getattr(importlib.import_module(package), old)
    module, _, name = new.rpartition(".")
    assert getattr(importlib.import_module(module), name) is not None
