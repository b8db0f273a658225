"""What users of training and export import: exactly these members, each with an example that runs."""

from __future__ import annotations

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

pytest.importorskip("torch")
pytest.importorskip("onnx")

EXPORTED = {
    "m2l_export": ["ExportOptions", "ExportReport", "ParityLimits", "PlanOptions", "export_checkpoint"],
    "m2l_train": [
        "PRESETS",
        "PrepareOptions",
        "PrepareReport",
        "StepResult",
        "TrainConfig",
        "TrainOptions",
        "TrainReport",
        "prepare",
        "train",
    ],
    "m2l_train.evaluate": [
        "Evaluation",
        "EvaluationOptions",
        "Metric",
        "Segmenter",
        "SegmenterOptions",
        "SegmenterReport",
        "evaluate_bundle",
        "evaluate_images",
        "load_segmenter",
        "to_json",
        "train_segmenter",
    ],
}

MOVED = [
    (package, old, new)
    for package in ("m2l_export", "m2l_train")
    for old, new in importlib.import_module(f"{package}._moved").MOVED.items()
]

RENAMED = [
    ("m2l_export", "Limits", "ParityLimits"),
    ("m2l_train", "Report", "PrepareReport"),
    ("m2l_train.evaluate", "Figure", "Metric"),
    ("m2l_train.evaluate", "Options", "EvaluationOptions"),
]


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


@pytest.mark.parametrize(("package", "old", "new"), MOVED)
def test_moved_modules__name_the_new_one(package: str, old: str, new: str) -> None:
    message = import_error_of(package, old)
    assert names_new_module(message, package, importlib.import_module(f"{package}._moved").MOVED, old), message
    if new.endswith("inception"):
        pytest.importorskip("torchvision")
    importlib.import_module(f"{package}.{new}")


@pytest.mark.parametrize(("package", "old", "new"), RENAMED)
def test_renamed_members__name_the_new_one(package: str, old: str, new: str) -> None:
    with pytest.raises(ImportError, match=f"{package}.{old} is now {package}.{new}"):
        getattr(importlib.import_module(package), old)
    assert getattr(importlib.import_module(package), new) is not None
