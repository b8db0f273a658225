"""Modulated generators: recognised, refused where damaged, exported, validated, and told about in the bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine
from functional_modulated import FILTERED, SMALL, appearances, drawn_inputs, images_by_formula, small_modulated
from support import save, slow
from torch import Tensor

from m2l_export import ExportOptions, ExportReport, export_checkpoint
from m2l_export.checkpoint import EXPECTED, load_checkpoint
from m2l_export.graph import onnx_modulated
from m2l_export.parity import gate
from m2l_runtime import Synthesizer
from m2l_runtime.conditioning.conditions import noise_bytes, sampled_appearances
from m2l_runtime.errors import CheckpointError, InputError, ParityError
from m2l_runtime.types import KNOWN_NAMES, list_names
from m2l_train.models.modulated import ModulatedGenerator, ModulatedSpec

pytestmark = pytest.mark.usefixtures("only_onnxruntime")

SIZE = ExportOptions(image_size=32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("modulated") / "latest_net_G.pth"
    torch.save(small_modulated().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def report(checkpoint: Path, only_onnxruntime: None) -> ExportReport:
    options = ExportOptions(name="small", image_size=32, precisions=("fp32", "fp16"), engines=("onnxruntime",))
    return export_checkpoint(checkpoint, checkpoint.parent / "bundle", options)


def test_checkpoint__a_modulated_generator_is_recognised(checkpoint: Path, tmp_path: Path) -> None:
    found = load_checkpoint(checkpoint).network
    assert isinstance(found, ModulatedGenerator)
    assert found.spec == SMALL
    assert not found.training
    expected = small_modulated().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    state = {
        f"module.{name}": tensor.half() if tensor.is_floating_point() else tensor for name, tensor in expected.items()
    }
    torch.save(state, tmp_path / "half.pth")
    widened = load_checkpoint(tmp_path / "half.pth").network
    assert {parameter.dtype for parameter in widened.parameters()} == {torch.float32}


def text(names: str) -> Tensor:
    return torch.tensor(list(names.encode()), dtype=torch.uint8)


TWICE = ",".join([*SMALL.names[:12], "skin_L"])
HALF_OF_THE_KEYS = [*(f"downs.{k}.weight" for k in range(3)), *(f"layers.{2 * k}.weight" for k in range(3))]
DAMAGES: list[tuple[dict[str, Tensor | None], str]] = [
    ({"head.weight": None}, r"lacks head\.weight; expected"),
    ({"names": None}, r"lacks names; expected"),
    ({"table": None}, r"lacks table; expected"),
    ({"mlp.2.bias": None, "mlp.0.bias": None}, r"lacks mlp\.0\.bias and 1 more"),
    ({"layers.2.style.weight": None}, r"lacks layers\.2\.style\.weight"),
    ({"layers.2.weight": None}, "as many sides in its decoder as in its encoder"),
    ({"downs.0.weight": None}, "as many sides in its decoder as in its encoder"),
    (dict.fromkeys(HALF_OF_THE_KEYS), "at least one side"),
    ({"extra": torch.zeros(1)}, "also has extra"),
    (
        {"layers.3.skip_weight": torch.zeros(5, 4, 3, 3)},
        r"has layers\.3\.skip_weight of shape .* ask for \(5, 3, 3, 3\)",
    ),
    ({"downs.1.weight": torch.tensor(1.0)}, "has single numbers in place of weights"),
    ({"downs.1.weight": torch.zeros(0, 2, 4, 4)}, "one channel in each layer"),
    ({"downs.1.weight": torch.zeros(1).expand(1 << 40, 2, 4, 4)}, "is none|has downs"),
    ({"table": torch.zeros(1).expand(1 << 56, 13)}, "is none|fewer numbers"),
    ({"mlp.0.weight": torch.zeros(6, 12)}, r"names 13 numbers of an appearance, but has mlp\.0\.weight for \(12,\)"),
    ({"head.bias": torch.full((7,), torch.nan)}, r"NaN or infinite numbers in head\.bias; the training has diverged"),
    ({"table": torch.full((9, 13), torch.inf)}, "NaN or infinite numbers in table"),
    ({"std": torch.zeros(13)}, "numbers in std that are not above 0"),
    ({"std": -torch.ones(13)}, "numbers in std that are not above 0"),
    ({"table": torch.zeros(0, 13)}, "keeps no appearances of the images trained on"),
    ({"names": text(",".join([*SMALL.names[:12], "nose"]))}, "a number 'nose'; this m2l knows lesion_L"),
    ({"names": text(TWICE)}, "two numbers of one name"),
    ({"names": text("")}, r"names 1 number of an appearance, but has mlp\.0\.weight for \(13,\)"),
    ({"names": torch.tensor([255, 254], dtype=torch.uint8)}, "is none .*can't decode"),
    ({"names": torch.tensor(1 << 40)}, r"names are torch\.int64 of shape \(\)"),
    ({"names": torch.zeros(2, 3, dtype=torch.uint8)}, r"names are torch\.uint8 of shape \(2, 3\)"),
    ({"names": torch.zeros(3)}, r"names are torch\.float32"),
    ({"names": text("ink").to_sparse()}, "names are torch.uint8"),
    ({"filters": torch.tensor([torch.nan, 1.0])}, "a sharpening from 0 to 4 and 1 to 4 chroma passes, got nan and 1"),
    ({"filters": torch.tensor([-0.5, 1.0])}, "a sharpening from 0 to 4"),
    ({"filters": torch.tensor([0.5, 1e9])}, "1 to 4 chroma passes, got 0.5 and 1000000000"),
    ({"filters": torch.tensor([0.5, 1.5])}, "filters have 1.5 passes"),
    ({"filters": torch.tensor([0.5, torch.inf])}, "filters have inf passes"),
    ({"filters": torch.tensor(0.5)}, r"filters are torch\.float32 of shape \(\)"),
    ({"filters": torch.tensor([1, 1])}, r"filters are torch\.int64"),
    ({"filters": torch.ones(2).to_sparse()}, "filters are torch.float32"),
    ({"filters": torch.tensor([0.0, 1.0])}, "also has filters"),
    ({"mean": torch.zeros(13).to_sparse()}, "has mean in a form that is not plain numbers"),
]


@pytest.mark.parametrize(("changes", "message"), DAMAGES)
def test_checkpoint__damaged_modulated_generators(
    changes: dict[str, Tensor | None], message: str, tmp_path: Path, m2l: CommandLine
) -> None:
    state: dict[str, Any] = small_modulated().state_dict() | changes
    path = tmp_path / "x_net_G.pth"
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")
    outcome = m2l("export", path, tmp_path / "bundle")
    assert (outcome.code, "Traceback" in outcome.err) == (1, False)
    assert not (tmp_path / "bundle").exists()


def test_checkpoint__other_files_are_told_that_it_is_expected_too(tmp_path: Path) -> None:
    assert "m2l's modulated generator" in EXPECTED
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=re.escape(EXPECTED)):
        load_checkpoint(tmp_path / "x.pth")


def test_export__the_bundle_says_what_it_is(report: ExportReport) -> None:
    manifest = report.bundle.manifest
    assert manifest.schema_version == 2
    assert manifest.network.architecture == "modulated"
    assert (manifest.network.levels, manifest.network.ngf, manifest.network.appearance) == (3, 4, True)
    parameters = sum(parameter.numel() for parameter in small_modulated().parameters())
    assert manifest.network.parameter_count == parameters
    assert [(one.role, one.shape[1:]) for one in manifest.inputs] == [
        ("mask", (32, 32)),
        ("appearance", (13,)),
        ("noise", (SMALL.noise_count((32, 32)),)),
    ]
    assert manifest.appearance is not None
    assert (manifest.appearance.names, manifest.appearance.count) == (KNOWN_NAMES[:13], 9)
    assert {(model.precision, model.form) for model in manifest.models} == {("fp32", "resize"), ("fp16", "resize")}
    assert report.parity.max_level_difference <= 1
    (half,) = report.variants
    assert half.fidelity.max_levels <= 2
    assert "each with another appearance and other noise)" in report.parity.reference
    assert "dropout" not in report.parity.reference
    np.testing.assert_array_equal(report.bundle.read_appearances(), appearances().numpy())


def test_export__the_bundle_synthesizes_what_the_formulas_give(report: ExportReport) -> None:
    masks, rows, _ = drawn_inputs(SMALL, 3)
    with Synthesizer.open(report.bundle, backend="onnxruntime") as synth:
        images = synth(masks, seeds=[1, 2, 3], appearances=rows)
        noise = [noise_bytes(seed, SMALL.noise_count((32, 32))) for seed in (1, 2, 3)]
        expected = images_by_formula(
            small_modulated().state_dict(),
            masks,
            rows,
            np.stack(noise),
        )
        again = synth(masks, seeds=[1, 2, 4], appearances=rows)
    assert np.abs(images - ((expected + 1) * 127.5).round().clip(0, 255)).max() <= 1
    assert (again[:2] == images[:2]).all()
    assert np.abs(again[2].astype(int) - images[2]).mean() > 1


def test_export__the_model_card_speaks_of_noise_and_luma(report: ExportReport) -> None:
    card = (report.bundle.path / "MODEL_CARD.md").read_text()
    for words in (
        "A modulated generator that paints",
        "halves its side 3 times",
        "4 channels wide at half the side",
        "no norms and no dropout",
        "Noise comes into each convolution",
        "chroma at half of it",
        "Beside each mask goes noise",
        f"13 numbers that say what the image looks like ({list_names(SMALL.names)}).",
        "draws from 9 of them in `appearances.npz`",
        "generator.fp16.onnx",
    ):
        assert words in " ".join(card.split())
    for words in ("U-Net", "pix2pix", "norm none", "ngf", "Dropout is"):
        assert words not in card
    assert max(map(len, card.split("## Parity")[0].splitlines())) <= 125


def test_inspect_and_verify__know_it(report: ExportReport, m2l: CommandLine) -> None:
    shown = m2l("inspect", report.bundle.path)
    assert shown.code == 0
    parameters = report.bundle.manifest.network.parameter_count
    assert f"modulated, 3 levels, 4 channels at half the side, {parameters:,} parameters" in " ".join(shown.out.split())
    assert "norm" not in shown.out
    assert m2l("verify", report.bundle.path).code == 0


def test_synth__draws_with_it(report: ExportReport, m2l: CommandLine, tmp_path: Path) -> None:
    save(tmp_path / "m.png", drawn_inputs(SMALL, 3)[0][1])
    done = m2l("synth", tmp_path / "m.png", tmp_path / "out", "--bundle", report.bundle.path, "--samples", "2")
    assert done.code == 0, done.err
    assert len(list((tmp_path / "out").glob("**/*.png"))) == 2


def test_export__another_size_weights_in_half_precision_and_less_contrast(checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(image_size=40, weights="fp16", min_contrast=30.0)
    bundle = export_checkpoint(checkpoint, tmp_path / "b", options).bundle
    assert bundle.manifest.image_size == (40, 40)
    assert bundle.manifest.models[0].weights == "fp16"
    table = appearances().double().numpy()
    kept = table[np.linalg.norm(table[:, :3] - table[:, 6:9], axis=1) >= 30]
    assert 0 < len(kept) < 9
    np.testing.assert_allclose(sampled_appearances(bundle), kept, rtol=1e-6)
    np.testing.assert_array_equal(bundle.read_appearances(), appearances().numpy())


def test_export__filters_at_the_end_are_part_of_the_network(tmp_path: Path) -> None:
    """Through the file, also in half precision: images of the bundle are those of the formulas."""
    state = small_modulated(FILTERED).state_dict()
    state = {name: one.half() if one.is_floating_point() else one for name, one in state.items()}
    torch.save(state, tmp_path / "g.pth")
    assert load_checkpoint(tmp_path / "g.pth").network.spec == FILTERED
    bundle = export_checkpoint(tmp_path / "g.pth", tmp_path / "b", SIZE).bundle
    masks, rows, _ = drawn_inputs(FILTERED, 3)
    with Synthesizer.open(bundle, backend="onnxruntime") as synth:
        images = synth(masks, seeds=[1, 2, 3], appearances=rows)
    noise = np.stack([noise_bytes(seed, FILTERED.noise_count((32, 32))) for seed in (1, 2, 3)])
    expected, plain = (
        ((images_by_formula(one, masks, rows, noise) + 1) * 127.5).round().clip(0, 255)
        for one in (state, {name: one for name, one in state.items() if name != "filters"})
    )
    assert np.abs(images - expected).max() <= 1
    assert np.abs(images - plain).mean() > 1


def test_export__contrast_is_found_by_names(tmp_path: Path) -> None:
    spec = ModulatedSpec((2,), (3,), tuple(reversed(KNOWN_NAMES[:12])), hidden=3, appearance_rows=9)
    network = small_modulated(spec)
    network.set_table(appearances()[:, :12].flip(1))
    torch.save(network.state_dict(), tmp_path / "g.pth")
    options = ExportOptions(image_size=16, min_contrast=30.0)
    found = sampled_appearances(export_checkpoint(tmp_path / "g.pth", tmp_path / "b", options).bundle)
    table = appearances().numpy()
    kept = table[np.linalg.norm(table[:, :3] - table[:, 6:9], axis=1) >= 30]
    np.testing.assert_allclose(found[:, ::-1], kept[:, :12], rtol=1e-6)
    torch.save(small_modulated(ModulatedSpec((2,), (3,), ("ink", "hair"), 3, 4)).state_dict(), tmp_path / "i.pth")
    with pytest.raises(
        InputError, match=r"no colors to tell a contrast from \(ink, hair\); leave out .* \(--min-contrast\)"
    ):
        export_checkpoint(tmp_path / "i.pth", tmp_path / "c", options)
    without = export_checkpoint(tmp_path / "i.pth", tmp_path / "c", ExportOptions(image_size=16)).bundle
    assert without.manifest.appearance is not None
    assert without.manifest.appearance.names == ("ink", "hair")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image-size", "36"), "works on multiples of 8 pixels from 8 to 4096, got --image-size 36"),
        (("--stochastic",), "noise makes its images differ, and is always an input; leave out --stochastic"),
        (("--norm-statistics", "running"), "no running statistics; leave out --norm-statistics"),
        (("--upsampling", "transposed"), "has no transposed convolutions; leave out --upsampling"),
    ],
)
def test_export__options_that_do_not_suit_it(
    checkpoint: Path, tmp_path: Path, m2l: CommandLine, options: tuple[str, ...], message: str
) -> None:
    outcome = m2l("export", checkpoint, tmp_path / "b", *options)
    assert outcome.code == 1
    assert message in " ".join(outcome.err.split())
    assert not (tmp_path / "b").exists()


def test_export__a_graph_that_scales_otherwise_does_not_pass(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_modulated, "MAX_DEVIATIONS", 1.0)
    with pytest.raises(ParityError, match=r"differs from the network by up to"):
        export_checkpoint(checkpoint, tmp_path / "b", SIZE)


def test_gate__noise_in_each_round(report: ExportReport) -> None:
    manifest = report.bundle.manifest
    masks = gate.gate_masks((32, 32), None)
    noise = gate.gate_inputs(masks, manifest.inputs, appearances().numpy())["noise"].reshape(
        gate.ROUNDS, len(masks), -1
    )
    assert (noise[-2, ::2] == 0).all()
    assert (noise[-1, ::2] == 255).all()
    rest = noise[:2].reshape(-1, noise.shape[-1]).astype(float)
    assert rest.mean() == pytest.approx(127.5, abs=2)
    assert len({row.tobytes() for row in noise.reshape(-1, noise.shape[-1])}) > 2 * len(masks)


def test_export__a_file_in_a_run_of_another_network_is_not_of_it(checkpoint: Path, tmp_path: Path) -> None:
    from m2l_export.run_provenance import RunProvenance
    from m2l_train import TrainConfig
    from m2l_train.training.run_folder import RunFolder

    run, file = RunFolder(tmp_path), tmp_path / "latest_net_G.pth"
    assert RunProvenance(file, run, TrainConfig()).for_network(SMALL) == RunProvenance(file)
    with pytest.raises(CheckpointError, match=r"holds a modulated generator, but config.json beside it says a U-Net"):
        RunProvenance(file, run, TrainConfig(), is_named_by_run=True).for_network(SMALL)
    assert RunProvenance(file).for_network(SMALL) == RunProvenance(file)


@pytest.mark.parametrize("engine", [slow("onnxruntime")])
def test_export__in_int8(checkpoint: Path, tmp_path: Path, m2l: CommandLine, engine: str) -> None:
    limits = ("--min-psnr", "20", "--min-worst-psnr", "15", "--max-mean-difference", "20", "--max-color-shift", "5")
    given = ("--image-size", "32", "--precision", "int8", "--engines", engine, "--calibrate", "shapes:60,seed=2")
    outcome = m2l("export", checkpoint, tmp_path / "b", *given, *limits)
    assert outcome.code == 0, outcome.err
    with Synthesizer.open(tmp_path / "b", backend=engine, precision="int8") as synth:
        manifest = synth.bundle.manifest
        assert synth(drawn_inputs(SMALL, 2)[0]).std() > 10
    (model,) = (one for one in manifest.models if one.precision == "int8")
    assert (model.form, model.weights, model.engines) == ("resize", "int8", (engine,))
    assert model.parity.mean_psnr_db is not None
    assert model.parity.mean_psnr_db > 20
    assert "ups.3.skip" in (tmp_path / "b" / "MODEL_CARD.md").read_text()
