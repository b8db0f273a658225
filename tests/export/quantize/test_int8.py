"""Checkpoints to bundles in bf16 and int8, end to end: what is written, what it computes, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command_line import CommandLine
from onnx import numpy_helper
from support import REFERENCE, ROOT, TINY, Array, oracle, slow

from m2l_export import ExportOptions, ExportReport, ParityLimits, export, export_checkpoint, precisions, targets
from m2l_export.options import DEFAULT_CALIBRATION
from m2l_export.precisions import Reference, evaluate, run_file, validate_variant
from m2l_export.quantize import calibration
from m2l_export.quantize.calibration import read_calibration
from m2l_export.quantize.quantizer import PERCENTILES
from m2l_runtime import Synthesizer, open_bundle
from m2l_runtime._utils import cpu
from m2l_runtime.backends.base import ModelSource
from m2l_runtime.backends.registry import backend_module
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.errors import EngineError, EngineNotInstalled, InputError, ParityError
from m2l_runtime.masks.sources.spec import open_source
from m2l_runtime.verify import replay_golden
from m2l_train.models.networks import UnetGenerator, UnetSpec

CHECKPOINT = TINY / "tiny_net_G.pth"
ISIC_MASKS = ROOT.parent / "shared" / "isic2017-256" / "train" / "masks"
HAS_OPENVINO = targets.is_installed("openvino")
LOOSE = ParityLimits(20, 15, 40, 40)
ENGINES = [
    "onnxruntime",
    pytest.param("openvino", marks=pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO is not installed")),
]
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO is not installed")


@functools.cache
def has_bf16() -> bool:
    """Whether OpenVINO is here and this CPU computes in bf16; the first call tries it."""
    bundle = open_bundle(ROOT / "tests" / "data" / "tiny-bundle")
    model, manifest = bundle.manifest.models[0], bundle.manifest
    source = ModelSource(model.file.path, bundle.read_model(model), "bf16", manifest.inputs, manifest.outputs)
    try:
        run_file(source, "openvino", {"mask": np.zeros((1, 256, 256), np.uint8)})
    except EngineError:
        return False
    return True


@pytest.fixture(scope="session")
def bf16() -> None:
    """Skip where bf16 is not computed: tried once, and not while tests are collected."""
    if not has_bf16():
        pytest.skip("OpenVINO is not installed, or this CPU has no bf16")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    """The tiny checkpoint in all that runs here."""
    folder = tmp_path_factory.mktemp("int8")
    wanted: tuple[Precision, ...] = ("fp32", "bf16", "int8") if has_bf16() else ("int8",)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "SELECTION_MASKS", 4)  # each is run 34 times
        return export_checkpoint(
            CHECKPOINT, folder / "b", ExportOptions(name="tiny", precisions=wanted, calibrate="shapes:60")
        )


@pytest.fixture(scope="module")
def reference(report: ExportReport) -> Reference:
    """The fp32 images that `report` compared with, made once for all engines."""
    manifest = report.bundle.manifest
    content = report.bundle.read_model(manifest.models[0])
    exact = ModelSource("generator.fp32.onnx", content, "fp32", manifest.inputs, manifest.outputs)
    return Reference(exact, read_calibration("shapes:60", exact.inputs, None, report.bundle.read_golden()[0]))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint of a network for 32x32 pixels, of random weights, which int8 suits badly."""
    torch.manual_seed(0)
    made = UnetGenerator(UnetSpec(5, 4, 3, 3, "instance"))
    for tensor in made.state_dict().values():
        tensor.copy_(torch.randn_like(tensor) * 0.15)
    torch.save(made.state_dict(), tmp_path / "small_net_G.pth")
    return tmp_path / "small_net_G.pth"


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, so that a test can see that they are gone."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def psnr_db(images: Array, reference: Array) -> Any:
    square = ((images.astype(np.float64) - reference) ** 2).reshape(len(images), -1).mean(1)
    return 20 * np.log10(255) - 10 * np.log10(square)


def shapes(words: str, side: int = 256) -> Array:
    source = open_source(words, side)
    return np.stack([source.read(name, (side, side)).mask for name in source.names])


def test_int8__what_the_bundle_holds(report: ExportReport) -> None:
    bundle = report.bundle
    variants = [
        (m.file.path, m.precision, m.engines, m.weights, m.form, m.parity.accepted_psnr_db)
        for m in bundle.manifest.models
    ]
    expected: list[Any] = [("generator.fp32.onnx", "fp32", ("onnxruntime",), "fp32", "sub-pixel", None)]
    if HAS_OPENVINO:
        expected.append(("generator.fp32.onnx", "fp32", ("openvino",), "fp32", "sub-pixel", None))
    if has_bf16():
        expected.append(("generator.fp32.onnx", "bf16", ("openvino",), "fp32", "sub-pixel", (40, 36)))
    expected += [
        (f"generator.int8.{engine}.onnx", "int8", (engine,), "int8", "sub-pixel", (40, 36))
        for engine in ("onnxruntime", "openvino")[: 1 + HAS_OPENVINO]
    ]
    assert variants == expected
    names = {"MODEL_CARD.md", "manifest.json", "golden.npz", *(variant[0] for variant in expected)}
    assert set(os.listdir(bundle.path)) == names
    assert str(bundle.path.parent) not in (bundle.path / "manifest.json").read_text()
    for model in bundle.manifest.models:
        if model.precision != "fp32":
            parity = model.parity
            assert parity.mask_count == 105
            assert parity.accepted_max_level_difference is None
            assert parity.mean_psnr_db is not None
            assert parity.worst_psnr_db is not None
            assert 40 <= parity.mean_psnr_db <= 99
            assert 36 <= parity.worst_psnr_db <= parity.mean_psnr_db
            assert parity.reference.startswith("generator.fp32.onnx in fp32 on onnxruntime ")
            assert ("tuned on 20 masks" in parity.reference) == (model.precision == "int8")
        if model.precision == "int8":
            assert model.file.size_bytes < 0.5 * bundle.manifest.models[0].file.size_bytes


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        ("onnxruntime", "int8"),
        pytest.param("openvino", "int8", marks=needs_openvino),
        ("openvino", "bf16"),
    ],
)
def test_int8__images_are_as_far_off_as_the_manifest_says(
    report: ExportReport, engine: str, precision: Precision, request: pytest.FixtureRequest
) -> None:
    if precision == "bf16":
        request.getfixturevalue("bf16")
    masks = shapes("shapes:30,seed=77")
    with Synthesizer.open(report.bundle, backend="onnxruntime") as synth:
        exact = synth(masks)
    with Synthesizer.open(report.bundle, backend=engine, precision=precision) as synth:
        assert synth.settings.precision == precision
        images = synth(masks)
    found = psnr_db(images, exact)
    (model,) = [m for m in report.bundle.manifest.models if m.precision == precision and engine in m.engines]
    assert model.parity.mean_psnr_db == pytest.approx(found.mean(), abs=1)
    assert model.parity.worst_psnr_db is not None
    assert found.min() > model.parity.worst_psnr_db - 3  # of other masks


def test_int8__images_are_near_those_of_the_original(report: ExportReport) -> None:
    with Synthesizer.open(report.bundle, precision="int8") as synth:
        for _, mask, original in oracle(TINY / "masks", TINY / "images_eval"):
            assert psnr_db(synth(mask[None]), original[None]) > 40


@pytest.mark.slow
def test_int8__the_runtimes_commands_on_it(report: ExportReport, tmp_path: Path, m2l: CommandLine) -> None:
    path = report.bundle.path
    replays = replay_golden(report.bundle)
    assert {replay.precision for replay in replays} >= {"fp32", "int8"}
    assert all(replay.agrees for replay in replays if replay.device == "cpu")
    outcome = m2l("verify", path)
    assert outcome.code == 0
    assert re.search(r"onnxruntime +cpu +int8 +agrees", outcome.out)
    inspected = m2l("inspect", path)
    assert inspected.code == 0
    assert "generator.int8.onnxruntime.onnx" in inspected.out
    masks = TINY / "masks"
    outcome = m2l("synth", masks, tmp_path / "out", "--bundle", path, "--precision", "int8", "--backend", "onnxruntime")
    assert outcome.code == 0
    assert "int8" in outcome.out
    assert len(list((tmp_path / "out").glob("*.png"))) == len(list(masks.glob("*.png")))


def test_int8__the_model_card(report: ExportReport) -> None:
    card = (report.bundle.path / "MODEL_CARD.md").read_text()
    table = [line for line in card.splitlines() if line.startswith("| generator.")]
    assert len(table) == len(report.bundle.manifest.models)
    for line, model in zip(table, report.bundle.manifest.models, strict=True):
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[:3] == [model.file.path, model.precision, model.parity.engine]
        letter = re.escape(cells[3])
        assert re.search(rf"^- {letter}: {re.escape(model.parity.reference)}$", card, re.M)
        if model.precision != "fp32":
            assert cells[-1] == f"{model.parity.mean_psnr_db:.1f} dB, worst {model.parity.worst_psnr_db:.1f}"
    rows = dict(re.findall(r"^\| ((?:downs|ups)\.\d) \| (.*) \|$", card, re.M))
    for variant in report.variants:
        if variant.sensitivity is not None:
            assert list(rows) == [row.layer for row in variant.sensitivity.layers]
            for row in variant.sensitivity.layers:
                assert f"{row.alone_psnr_db:.1f}, {row.alone_worst_psnr_db:.1f}" in rows[row.layer]
                assert rows[row.layer].startswith(f"{row.multiplications_share * 100:.1f} %")


@pytest.mark.usefixtures("without_openvino")
def test_int8__a_card_with_one_reference_keeps_it_in_a_line(tmp_path: Path, small: Path) -> None:
    export_checkpoint(small, tmp_path / "b")
    card = (tmp_path / "b" / "MODEL_CARD.md").read_text()
    assert "| against |" not in card
    assert "Differences are in levels of 0..255, against: PyTorch" in card
    assert "What int8 costs" not in card


@pytest.mark.slow
@pytest.mark.usefixtures("without_openvino")
def test_int8__some_layers_in_float_and_what_is_told_of_them(
    tmp_path: Path, small: Path, m2l: CommandLine, left: Path
) -> None:
    words = "--precision int8 --engines onnxruntime --calibrate shapes:48 --min-psnr 44 --json --name x"
    arguments = words.split()
    outcome = m2l("export", small, tmp_path / "b", *arguments)
    assert outcome.code == 0
    assert os.listdir(left) == []
    made, opened = json.loads(outcome.out), open_bundle(tmp_path / "b")
    assert made["sha256"] == opened.sha256
    (model,) = [one for one in opened.manifest.models if one.precision == "int8"]
    (found,) = made["sensitivity"].values()
    assert [row["layer"] for row in found["layers"] if row["is_float"]] == list(model.float_layers)
    assert 0 < len(model.float_layers) < 10
    assert sum(row["multiplications_share"] for row in found["layers"]) == pytest.approx(1)
    assert found["chosen"]["mean_psnr_db"] >= 44.5
    assert model.parity.mean_psnr_db is not None
    assert model.parity.mean_psnr_db >= 44
    graph = onnx.load_from_string(opened.read_model(model))
    floats = {tensor.name for tensor in graph.graph.initializer}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert sum(node.input[1] in floats for node in convolutions) == len(model.float_layers)
    assert "int8 for onnxruntime: each of 10 layers alone, on 14 images" in outcome.err
    ranges = re.findall(r"ranges of ([\d.]+) % of the values: PSNR ([\d.]+) dB, worst ([\d.]+)", outcome.err)
    assert [float(percent) for percent, _, _ in ranges] == list(PERCENTILES)
    margins = {(float(mean), float(worst)): min(float(mean) - 44, float(worst) - 36) for _, mean, worst in ranges}
    taken = re.findall(r"all convolutions in int8: PSNR ([\d.]+) dB, worst ([\d.]+);", outcome.err)[0]
    assert margins[float(taken[0]), float(taken[1])] >= max(margins.values()) - 0.1  # as rounded as they are told
    assert f"with {', '.join(model.float_layers)} in float" in outcome.err
    assert ", in float |" in (tmp_path / "b" / "MODEL_CARD.md").read_text()
    again = m2l("export", small, tmp_path / "again", *arguments)
    assert json.loads(again.out)["sha256"] == opened.sha256


@pytest.mark.usefixtures("without_openvino")
@pytest.mark.parametrize("times", [slow(1), slow(2), 9])
def test_int8__a_choice_that_the_gate_does_not_pass_is_made_again(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """The gate sees the first images as 3 dB short of the limit."""
    limits = ParityLimits(30, 20, 40, 40)
    chosen: list[bytes] = []
    lines: list[str] = []

    def worse(source: ModelSource, *others: Any) -> Any:
        found = evaluate(source, *others)
        chosen.append(source.content)
        if len(chosen) > times:
            return found
        return dataclasses.replace(found, fidelity=dataclasses.replace(found.fidelity, mean_psnr_db=27.0))

    def attempt() -> ExportReport:
        return export_checkpoint(
            small,
            tmp_path / "b",
            ExportOptions(precisions=["int8"], engines=["onnxruntime"], calibrate="shapes:48", limits=limits),
            on_step=lines.append,
        )

    monkeypatch.setattr(precisions, "evaluate", worse)
    if times > precisions.MAX_ATTEMPTS:
        with pytest.raises(ParityError, match=r"mean PSNR 27\.00 dB \(limit 30\), over 105 masks"):
            attempt()
        assert len(chosen) <= precisions.MAX_ATTEMPTS
        return
    (variant,) = attempt().variants
    assert len(chosen) == times + 1
    assert len(set(chosen)) == times + 1
    assert variant.content == chosen[-1]
    assert variant.sensitivity is not None
    assert variant.sensitivity.chosen.mean_psnr_db >= variant.sensitivity.all_int8.mean_psnr_db + times * 3.5
    told = [line for line in lines if line.startswith("not near enough: mean PSNR 27.00 dB (limit 30), over 105 masks")]
    assert len(told) == times


@pytest.mark.usefixtures("without_openvino")
def test_int8__mostly_float_is_warned_about(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "FLOAT_SHARE_WARNING", 0.01)
    limits = ParityLimits(44, 20, 40, 40)
    report = export_checkpoint(
        small,
        tmp_path / "b",
        ExportOptions(precisions=["int8"], engines=["onnxruntime"], calibrate="shapes:48", limits=limits),
    )
    (warning,) = [one for one in report.warnings if "in float" in one]
    assert re.match(r"generator\.int8\.onnxruntime\.onnx leaves \d+ % of the multiplications in float", warning)
    assert warning in report.bundle.manifest.warnings


@pytest.mark.usefixtures("without_openvino")
def test_int8__far_too_strict_limits_write_nothing(tmp_path: Path, small: Path, left: Path) -> None:
    with pytest.raises(ParityError, match=r"int8 on onnxruntime is too far from fp32 whichever layers .*mean PSNR \d"):
        export_checkpoint(
            small,
            tmp_path / "b",
            ExportOptions(precisions=["int8"], calibrate="shapes:48", limits=ParityLimits(psnr_db=98)),
        )
    assert sorted(os.listdir(tmp_path)) == ["small_net_G.pth", "temporary"]
    assert os.listdir(left) == []


@pytest.mark.usefixtures("bf16")
def test_int8__bf16_that_is_too_far_off_writes_nothing(tmp_path: Path, small: Path, m2l: CommandLine) -> None:
    outcome = m2l("export", small, tmp_path / "b", "--precision", "bf16", "--min-worst-psnr", "98")
    assert outcome.code == 1
    assert re.search(r"bf16 on openvino \S+ is too far from fp32: worst PSNR \(image \d+\) [\d.]+ dB", outcome.err)
    assert "over 141 masks; nothing was written. Calibrate on masks like those" in outcome.err
    assert not (tmp_path / "b").exists()


def inside(report: ExportReport, engine: str) -> tuple[Any, ModelSource]:
    """(the bundle's int8 way for an engine, the file of that)."""
    manifest = report.bundle.manifest
    (model,) = [m for m in manifest.models if m.precision == "int8" and engine in m.engines]
    content = report.bundle.read_model(model)
    return model, ModelSource(model.file.path, content, "int8", manifest.inputs, manifest.outputs)


@pytest.mark.parametrize("engine", [slow("onnxruntime"), ENGINES[1]])
def test_int8__a_scale_that_is_wrong_does_not_pass_the_gate(
    report: ExportReport, reference: Reference, engine: str
) -> None:
    """Of the layer without a norm behind it: norms take the scale of what is ahead of them away, and rightly so."""
    model, source = inside(report, engine)

    def attempt(content: bytes, reference: Reference) -> precisions.ModelVariant:
        one = dataclasses.replace(source, content=content)
        validation = evaluate(one, engine, "int8", reference, lambda _: None)
        return validate_variant(model, one, engine, "int8", reference, ParityLimits(), validation)

    found = attempt(source.content, reference).model.parity
    assert found.worst_psnr_db == model.parity.worst_psnr_db
    few = {name: array[::6] for name, array in reference.calibration.evaluation_inputs.items()}
    of_few = Reference(reference._source, dataclasses.replace(reference.calibration, evaluation_inputs=few))
    for is_single in (False, True):
        graph = onnx.load_from_string(source.content)
        (scale,) = [
            tensor
            for tensor in graph.graph.initializer
            if tensor.name.endswith(".weight_scale") and "ups.0." in tensor.name
        ]
        values = numpy_helper.to_array(scale).copy()
        values[values.argmax() if is_single else ...] *= 2
        scale.CopyFrom(numpy_helper.from_array(values, scale.name))
        with pytest.raises(ParityError, match=rf"int8 on {engine} \S+ is too far from fp32: mean PSNR \d\d\.\d\d dB"):
            attempt(graph.SerializeToString(), of_few)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--calibrate", "shapes:200"), 2, "--calibrate has no effect on fp32"),
        (("--min-psnr", "40"), 2, "--min-psnr has no effect on fp32"),
        (("--precision", "fp32,fp32", "--max-color-shift", "1"), 2, "--max-color-shift has no effect on fp32"),
        (("--precision", "int7"), 2, "some of fp32, fp16, bf16, int8, got 'int7'"),
        (("--precision", "int8,"), 2, "--precision takes names with commas between, got '"),
        (("--precision", "INT8"), 2, "got 'INT8'"),
        (("--precision", "int8", "--min-psnr", "120"), 2, "--min-psnr must be between 0 and 99 dB, got 120"),
        (("--precision", "int8", "--min-psnr", "nan"), 2, "--min-psnr must be between 0 and 99 dB, got nan"),
        (("--precision", "int8", "--min-worst-psnr", "-3"), 2, "--min-worst-psnr must be between 0 and 99 dB, got -3"),
        (("--precision", "int8", "--max-mean-difference", "256"), 2, "--max-mean-difference must be between"),
        (("--precision", "int8", "--max-color-shift", "inf"), 2, "--max-color-shift must be between"),
        (("--precision", "int8", "--calibrate", "{tmp}/absent"), 1, "absent does not exist"),
        (("--precision", "int8", "--calibrate", "{tmp}/empty"), 1, "at least 16 different masks"),
        (("--precision", "int8", "--calibrate", "shapes:"), 2, "does not say what to draw"),
        (("--precision", "int8", "--engines", "abacus"), 1, "'abacus', for which nothing is to be made"),
        (("--precision", "bf16", "--engines", "onnxruntime"), 1, "bf16 is for openvino"),
    ],
)
def test_int8__bad_options(tmp_path: Path, m2l: CommandLine, arguments: Sequence[str], code: int, message: str) -> None:
    (tmp_path / "empty").mkdir()
    outcome = m2l("export", CHECKPOINT, tmp_path / "b", *(word.format(tmp=tmp_path) for word in arguments))
    assert outcome.code == code
    assert message in " ".join(re.sub("[│╭╰╮╯─]", " ", outcome.err).split())
    assert "Traceback" not in outcome.err
    assert "writing ONNX" not in outcome.err, "told of after the long steps"
    assert not (tmp_path / "b").exists()


def test_int8__a_precision_that_there_is_not_in_python(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a precision is one of fp32, fp16, bf16, int8, got 'int4'"):
        export_checkpoint(CHECKPOINT, tmp_path / "b", ExportOptions(precisions=["int4"]))  # type: ignore[list-item]


@pytest.mark.slow
@pytest.mark.usefixtures("without_openvino")
def test_int8__bf16_without_openvino(tmp_path: Path, m2l: CommandLine) -> None:
    outcome = m2l("export", CHECKPOINT, tmp_path / "b", "--precision", "fp32,int8,bf16", "--require")
    assert outcome.code == 1
    assert "--precision bf16 needs openvino, which is not installed: pip install" in outcome.err
    assert "reading" not in outcome.err, "told of after the work has begun"
    with pytest.raises(EngineNotInstalled):
        export_checkpoint(CHECKPOINT, tmp_path / "b", ExportOptions(precisions=["bf16"]))
    outcome = m2l("export", CHECKPOINT, tmp_path / "b", "--precision", "fp32,bf16")
    assert outcome.code == 0, outcome
    assert "note: left out: --precision bf16 needs openvino" in outcome.err
    assert [model.precision for model in open_bundle(tmp_path / "b").manifest.models] == ["fp32"]


def test_targets__what_this_cpu_does_not_compute_is_a_target_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is emulated."""
    modules = {
        "openvino": SimpleNamespace(computes=lambda precision: precision != "bf16"),
        "onnxruntime": SimpleNamespace(),
    }
    monkeypatch.setattr(targets, "backend_module", modules.__getitem__)
    notes: list[str] = []
    for require in (False, True):
        found = targets.choose_targets(("bf16", "int8"), None, False, notes.append, require=require)
        assert found == {"bf16": ("openvino",), "int8": ("onnxruntime", "openvino")}
    assert not notes


@needs_openvino
def test_bf16__is_emulated_where_this_cpu_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest says so; where the CPU has it, OpenVINO's own images are about as far from fp32."""
    monkeypatch.setattr(export, "computes", lambda engine, precision: False)
    steps: list[str] = []
    options = ExportOptions(precisions=("fp32", "bf16"), require=True)
    done = export_checkpoint(CHECKPOINT, tmp_path / "b", options, on_step=steps.append)
    assert any("this CPU does not compute in it, so it is emulated" in step for step in steps)
    (model,) = (one for one in done.bundle.manifest.models if one.precision == "bf16")
    assert (model.engines, model.parity.kind, model.file) == (
        ("openvino",),
        "emulated",
        done.bundle.manifest.models[0].file,
    )
    assert model.parity.engine == f"PyTorch {torch.__version__}, rounded to bf16 around every convolution, CPU"
    assert model.parity.mean_psnr_db is not None
    assert 40 <= model.parity.mean_psnr_db <= 70
    if has_bf16():
        masks = shapes("shapes:16,seed=77")
        with Synthesizer.open(done.bundle, backend="onnxruntime") as synth:
            exact = synth(masks)
        with Synthesizer.open(done.bundle, backend="openvino", precision="bf16") as synth:
            assert psnr_db(synth(masks), exact).mean() == pytest.approx(model.parity.mean_psnr_db, abs=4)
    too_far = ExportOptions(precisions=("fp32", "bf16"), limits=ParityLimits(psnr_db=80))
    with pytest.raises(ParityError, match=r"bf16 for openvino, as PyTorch .* computes it, is too far from fp32"):
        export_checkpoint(CHECKPOINT, tmp_path / "c", too_far)
    assert not (tmp_path / "c").exists()


@needs_openvino
def test_openvino__tells_in_a_moment_what_it_computes_in() -> None:
    assert targets.computes("openvino", "bf16") == has_bf16()
    assert targets.computes("openvino", "fp32")
    assert not targets.computes("openvino", "fp16")
    assert targets.computes("onnxruntime", "fp16")


@pytest.mark.slow
@pytest.mark.usefixtures("without_openvino")
def test_int8__without_openvino(tmp_path: Path, small: Path) -> None:
    lines: list[str] = []
    report = export_checkpoint(
        small,
        tmp_path / "b",
        ExportOptions(precisions=["int8"], calibrate="shapes:48", limits=LOOSE),
        on_step=lines.append,
    )
    assert [variant.model.engines for variant in report.variants] == [("onnxruntime",)]
    assert lines[0].startswith("note: no int8 for openvino, which is not installed: pip install")


@pytest.mark.usefixtures("without_openvino")
def test_int8__a_cpu_on_which_int8_does_not_pay(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "instructions", lambda: frozenset({"avx2"}))
    lines: list[str] = []
    export_checkpoint(
        small,
        tmp_path / "b",
        ExportOptions(precisions=["int8"], engines=["onnxruntime"], calibrate="shapes:48", limits=LOOSE),
        on_step=lines.append,
    )
    assert [line for line in lines if line.startswith("note: this CPU has no instructions for products of int8")]


@pytest.mark.slow
@needs_openvino
def test_int8__a_cpu_that_computes_otherwise_proves_nothing(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def module(name: str) -> Any:
        real = backend_module(name)

        class WithoutBf16:
            @staticmethod
            def load(source: Any, options: Any) -> Any:
                return real.load(dataclasses.replace(source, precision="fp32"), options)

        return WithoutBf16

    monkeypatch.setattr(precisions, "backend_module", module)
    monkeypatch.setattr(targets, "backend_module", module)
    with pytest.raises(EngineError, match=r"openvino \S+ computes in fp32 on this CPU where bf16 is asked for"):
        export_checkpoint(small, tmp_path / "b", ExportOptions(precisions=["bf16"]))
    assert not (tmp_path / "b").exists()


@pytest.mark.usefixtures("without_openvino")
@pytest.mark.parametrize(("number", "code"), [slow(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_int8__interrupted(
    tmp_path: Path,
    small: Path,
    m2l: CommandLine,
    left: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    from onnxruntime.quantization import calibrate

    def interrupt(*_: object) -> None:
        assert os.listdir(left), "nothing temporary is there at that moment"
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(calibrate.HistogramCalibrater, "collect_data", interrupt)
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    try:
        assert m2l("export", small, tmp_path / "b", "--precision", "int8").code == code
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert sorted(os.listdir(tmp_path)) == ["small_net_G.pth", "temporary"]
    assert os.listdir(left) == []
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_int8__all_that_a_network_may_have(tmp_path: Path) -> None:
    """An appearance, dropout from outside, batch norm, resizing, half-precision weights; and verified afterwards."""
    path = checkpoint(tmp_path, UnetSpec(6, 3, 3, 3, "batch", upsample="resize", appearance_rows=25))
    report = export_checkpoint(
        path,
        tmp_path / "b",
        ExportOptions(
            norm_statistics="running",
            upsampling="resize",
            stochastic=True,
            weights="fp16",
            precisions=["int8"],
            engines=["openvino" if HAS_OPENVINO else "onnxruntime"],
            calibrate="shapes:48",
            limits=LOOSE,
        ),
    )
    model = report.variants[0].model
    assert (model.weights, model.form, report.bundle.manifest.models[0].form) == ("int8", "sub-pixel", "resize")
    assert "the same appearances and dropout bits" in model.parity.reference
    replays = [replay for replay in replay_golden(report.bundle) if replay.device == "cpu"]
    assert [replay.agrees for replay in replays] == [True] * len(replays)
    card = (tmp_path / "b" / "MODEL_CARD.md").read_text()
    assert "In generator.fp16-weights.onnx weights are stored in half precision" in card


def checkpoint(folder: Path, spec: UnetSpec) -> Path:
    torch.manual_seed(1)
    made = UnetGenerator(spec).eval()
    for name, tensor in made.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(0.1 if name.endswith("bias") else 0, 0.15)
    if made.appearance is not None:
        middle = torch.tensor([45.0, 18, 14, 9, 5, 5, 68, 12, 12, 6, 3, 3])
        made.appearance.set_table(middle + torch.randn(spec.appearance_rows, 12) * 3)
    torch.save(made.state_dict(), folder / "latest_net_G.pth")
    return folder / "latest_net_G.pth"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (UnetSpec(5, 4, 3, 3, "none"), {}),
        (UnetSpec(5, 4, 1, 1, "batch"), {"upsampling": "transposed"}),
        (UnetSpec(6, 4, 3, 3, "batch"), {"norm_statistics": "running", "image_size": 128}),
        (UnetSpec(7, 4, 3, 3, "instance", appearance_rows=9), {"stochastic": True, "weights": "fp16"}),
        (UnetSpec(9, 2, 3, 3, "instance"), {}),
    ],
)
def test_int8__other_networks(tmp_path: Path, spec: UnetSpec, options: dict[str, Any]) -> None:
    path = checkpoint(tmp_path, spec)
    wanted: tuple[Precision, ...] = ("bf16", "int8") if has_bf16() else ("int8",)
    report = export_checkpoint(path, tmp_path / "b", ExportOptions(precisions=wanted, limits=LOOSE, **options))
    assert all(replay.agrees for replay in replay_golden(report.bundle) if replay.device == "cpu")
    for variant in report.variants:
        assert variant.sensitivity is None or len(variant.sensitivity.layers) == 2 * spec.levels


@pytest.mark.slow
@pytest.mark.skipif(not ISIC_MASKS.is_dir() or not REFERENCE.is_dir(), reason="the trained reference is not here")
def test_int8__the_trained_reference_within_the_default_limits(tmp_path: Path) -> None:
    wanted: tuple[Precision, ...] = ("bf16", "int8") if has_bf16() else ("int8",)
    report = export_checkpoint(
        REFERENCE / "latest_net_G.pth", tmp_path / "b", ExportOptions(precisions=wanted, calibrate=ISIC_MASKS)
    )
    assert report.warnings == ()
    assert len(report.variants) == len(wanted) - 1 + 1 + HAS_OPENVINO
    masks = np.stack([mask for _, mask, _ in oracle(REFERENCE / "masks", REFERENCE / "images_eval")])
    with Synthesizer.open(report.bundle, backend="onnxruntime") as synth:
        exact = synth(masks)
    for variant in report.variants:
        assert variant.model.parity.mask_count == 205
        assert variant.fidelity.mean_psnr_db >= 40
        assert variant.fidelity.worst_psnr_db >= 36
        assert max(map(abs, variant.fidelity.colour_shift_levels)) <= 1
        with Synthesizer.open(
            report.bundle, backend=variant.model.engines[0], precision=variant.model.precision
        ) as synth:
            found = psnr_db(synth(masks), exact)
        assert found.mean() >= 40
        assert found.min() >= 36
    assert all(replay.agrees for replay in replay_golden(report.bundle) if replay.device == "cpu")


def test_int8__the_options_are_explained() -> None:
    text = (ROOT / "docs" / "quantization.md").read_text()
    for option in ("--precision", "--engines", "--calibrate", "--max-mean-difference", "--max-color-shift"):
        assert f"| `{option}` |" in text
    for option, limit in (("--min-psnr", ParityLimits().psnr_db), ("--min-worst-psnr", ParityLimits().worst_psnr_db)):
        assert f"| `{option}` | {limit:g} |" in text
    assert f"`{DEFAULT_CALIBRATION}`" in text
