"""What users import: exactly these members, each with an example that runs; old module names say the new ones."""

from __future__ import annotations

import doctest
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

from m2l_runtime import (
    AppearanceChoice,
    DrawnMasks,
    Encoding,
    OutputOptions,
    RunCallbacks,
    Shapes,
    Synthesizer,
    iterate_folder,
    open_bundle,
    open_source,
    read_mask,
    synthesize_folder,
)
from m2l_runtime._moved import MOVED
from m2l_runtime.errors import ArgumentTypeError, InputError

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
        "save_image",
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
    "m2l_runtime.page": [
        "PageFile",
        "PageMode",
        "SiteOptions",
        "SiteReport",
        "page_config",
        "page_files",
        "write_site",
    ],
    "m2l_runtime.serve": ["MicroBatcher", "QueueFull", "ServeOptions", "create_app", "serve"],
    "m2l_runtime.masks.sources": ["DrawnMasks", "MaskSource", "Shapes", "open_source"],
    "m2l_runtime.triton": ["TritonModel", "TritonOptions", "TritonRepository", "write_model_repository"],
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


@pytest.mark.parametrize("package", EXPORTED)
def test_exported_members__check_the_types_of_their_arguments(package: str) -> None:
    assert without_checks(package) == []


@pytest.mark.parametrize(("package", "name"), [(package, name) for package in EXPORTED for name in EXPORTED[package]])
def test_examples__give_what_they_say(package: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_examples(examples_of(package, name)) == ""


@pytest.mark.parametrize(
    "package", ["m2l_runtime", "m2l_runtime.bundle", "m2l_runtime.serve", "m2l_runtime.masks.sources"]
)
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


WRONG: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
    (read_mask, ("m.png", 256), {}, "read_mask: image_size must be a tuple"),
    (open_bundle, (5,), {}, "open_bundle: path must be a text or a path, got 5"),
    (open_source, (5,), {}, "open_source: text must be a text, got 5"),
    (Synthesizer.open, (), {"threads": "2"}, r"Synthesizer\.open: threads must be a whole number or None, got '2'"),
    (Synthesizer.open, (), {"device": 3}, "device must be a text, got 3"),
    (Synthesizer.open, (), {"trust_plans": "yes"}, "trust_plans must be True or False"),
    (Synthesizer.open, (), {"trust_engines": True}, "trust_engines is called trust_plans"),
    (synthesize_folder, ("m", "o", "s"), {}, "synthesizer must be a Synthesizer, got 's'"),
    (synthesize_folder, (None, "o", ...), {}, "masks must be a text, a path or a MaskSet, got None"),
    (synthesize_folder, ("m", "o", ..., {"pairs": True}), {}, r"write OutputOptions\(pairs=True\)"),
    (synthesize_folder, ("m", "o", ...), {"pairs": True}, r"write options=OutputOptions\(pairs=\.\.\.\)"),
    (synthesize_folder, ("m", "o", ...), {"on_note": print}, r"write callbacks=RunCallbacks\(on_note=\.\.\.\)"),
    (synthesize_folder, ("m", "o", ...), {"samples": "3"}, "samples must be a whole number, got '3'"),
    (synthesize_folder, ("m", "o", ...), {"shard": 2}, "shard must be a tuple"),
    (synthesize_folder, ("m", "o", ...), {"appearance": {"skin_a": 9}}, r"write AppearanceChoice\.from_values\(\{"),
    (synthesize_folder, ("m", "o", ...), {"appearance": "skin_a=9"}, "appearance must be an AppearanceChoice or None"),
    (iterate_folder, ("m", ...), {"samples": "3"}, "iterate_folder: samples must be a whole number"),
    (AppearanceChoice, ({"skin_a": 9},), {}, r"write AppearanceChoice\.from_values\(\{'skin_a': 9\}\)"),
    (AppearanceChoice.from_values, ([("skin_a", 9)],), {}, r"AppearanceChoice\.from_values: numbers must be a mapping"),
    (OutputOptions, (), {"pairs": "yes"}, "OutputOptions: pairs must be True or False"),
    (OutputOptions, (), {"image_encoding": "jpeg"}, "image_encoding must be an Encoding"),
    (Encoding, ("jpeg", "90"), {}, "Encoding: quality must be a whole number"),
    (RunCallbacks, (5,), {}, "RunCallbacks: on_start must be something to call"),
    (Shapes, (), {"seed": "a"}, "Shapes: seed must be a whole number, got 'a'"),
    (Shapes, (), {"kinds": "star"}, "Shapes: kinds must be a tuple, each item a text, got 'star'"),
    (DrawnMasks, (5, 2), {}, "DrawnMasks: source must be a MaskSource, got 5"),
]
"""What, its positional arguments (... for a synthesizer), its other arguments, and the message."""


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
    with Synthesizer.open(backend="fake") as synth, pytest.raises(ArgumentTypeError, match=message):
        what(*(synth if one is ... else one for one in arguments), **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [-1, "x", 1.5, True, None])
def test_shapes__masks_have_whole_numbers_from_0(number: Any) -> None:
    for method in (Shapes().draw, Shapes().label, Shapes().shape):
        with pytest.raises(InputError, match="masks are numbered 0, 1, 2"):
            method(number)


def test_appearance_choice__former_names_name_the_new_ones() -> None:
    with pytest.raises(AttributeError, match=r"AppearanceChoice\.of is now AppearanceChoice\.from_values"):
        _ = AppearanceChoice.of
    with pytest.raises(AttributeError, match=r"AppearanceChoice\.given is now AppearanceChoice\.values"):
        _ = AppearanceChoice().given
