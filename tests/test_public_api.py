"""What users of training and export import: exactly these members, each with an example that runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from public_api import (
    examples_of,
    exported_members,
    import_error_of,
    members_without_example,
    names_new_module,
    run_examples,
    without_checks,
)

pytest.importorskip("torch")
pytest.importorskip("onnx")

from m2l_export import ExportOptions, export_checkpoint
from m2l_runtime.errors import ArgumentTypeError
from m2l_train import PrepareOptions, TrainConfig, TrainOptions, prepare, train
from m2l_train.evaluate import EvaluationOptions, evaluate_bundle

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
    "m2l_train.datasets": [
        "PairsDataset",
        "PairsIterableDataset",
        "SyntheticDataset",
        "SyntheticIterableDataset",
        "to_dictionary",
        "to_tensors",
    ],
    "m2l_train.evaluate": [
        "ComparedMetric",
        "Comparison",
        "Evaluation",
        "EvaluationOptions",
        "Metric",
        "OwnPairs",
        "ReportOptions",
        "SHIPPED_SEGMENTER",
        "Segmenter",
        "SegmenterOptions",
        "SegmenterReport",
        "Usefulness",
        "UsefulnessCallbacks",
        "UsefulnessOptions",
        "UsefulnessReport",
        "compare_bundles",
        "evaluate_bundle",
        "evaluate_images",
        "evaluate_usefulness",
        "load_segmenter",
        "to_json",
        "train_segmenter",
        "usefulness_to_json",
        "write_own_pairs",
        "write_report",
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


@pytest.mark.parametrize("package", EXPORTED)
def test_exported_members__check_the_types_of_their_arguments(package: str) -> None:
    assert without_checks(package) == []


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


WRONG: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
    (export_checkpoint, ("a", "b"), {"overwrite": True}, r"write options=ExportOptions\(overwrite=\.\.\.\)"),
    (export_checkpoint, ("a", "b", {"name": "c"}), {}, r"write ExportOptions\(name='c'\)"),
    (export_checkpoint, ("a", None), {}, "export_checkpoint: bundle must be a text or a path, got None"),
    (ExportOptions, (), {"precisions": "int8"}, "precisions must be a list, each item one of fp32, .*, got 'int8'"),
    (ExportOptions, (), {"form": "resize"}, "ExportOptions: form is called upsampling"),
    (prepare, (3, "b", "c"), {}, "prepare: images must be a text or a path, got 3"),
    (PrepareOptions, (), {"combined": "yes"}, "PrepareOptions: combined must be True or False"),
    (train, ("a", "b", {"ngf": 3}), {}, r"write TrainConfig\(ngf=3\)"),
    (train, ("a", "b"), {"max_steps": "3"}, "TrainOptions: max_steps must be a whole number or None, got '3'"),
    (train, ("a", "b"), {"ngf": 3}, "TrainOptions: there is no argument ngf; it takes device, "),
    (TrainOptions, (), {"skip_bad": 1}, "TrainOptions: skip_bad must be True or False, got 1"),
    (TrainConfig, (), {"reflect_pad": 8}, "TrainConfig: reflect_pad is called mirror"),
    (TrainConfig, (), {"ngf": "3"}, "TrainConfig: ngf must be a whole number, got '3'"),
    (evaluate_bundle, ("a",), {"threads": "3"}, "evaluate_bundle: threads must be a whole number or None"),
    (EvaluationOptions, (), {"workers": "3"}, "EvaluationOptions: workers must be a whole number or None"),
]
"""What, its positional arguments, its other arguments, and the message."""


@pytest.mark.parametrize(("what", "arguments", "options", "message"), WRONG)
def test_public_api__a_wrong_type_is_told_by_the_arguments_name(
    what: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentTypeError, match=message):
        what(*arguments, **options)
    assert list(tmp_path.iterdir()) == []
