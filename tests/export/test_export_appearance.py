"""Generators that take an appearance: recognised, deployed, proven, and told about in the bundle."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import CommandLine
from support import disc, save
from torch import Tensor

from m2l_export import ExportOptions, export_checkpoint
from m2l_export.checkpoint import infer_spec, load_checkpoint, to_network
from m2l_export.graph import deploy as d
from m2l_export.graph import onnx_writer
from m2l_export.graph.deploy import Upsampling
from m2l_export.graph.fp16_weights import store_weights_as_fp16
from m2l_export.graph.onnx_builder import Builder, Value
from m2l_export.graph.onnx_writer import input_specs, to_onnx
from m2l_export.parity import gate
from m2l_runtime import Synthesizer
from m2l_runtime.conditioning.conditions import sampled_appearances
from m2l_runtime.conditioning.orientation import draw_orientation, orient, orient_back
from m2l_runtime.errors import CheckpointError, ParityError
from m2l_runtime.literals import Norm, Upsample
from m2l_runtime.types import NAMES
from m2l_train.models.networks import UnetGenerator, UnetSpec

pytestmark = pytest.mark.usefixtures("only_onnxruntime")

ROWS = 40


def table() -> Tensor:
    """(ROWS, 12) of the ranges that real images have."""
    torch.manual_seed(5)
    middle = torch.tensor([45.0, 18, 14, 9, 5, 5, 68, 12, 12, 6, 3, 3])
    return middle + torch.randn(ROWS, 12) * torch.tensor([12.0, 6, 6, 3, 2, 2, 9, 5, 5, 3, 1, 1])


def network(spec: UnetSpec, seed: int = 0) -> UnetGenerator:
    """Random weights of a spread that gives pictures, in which each number of an appearance shows."""
    torch.manual_seed(seed)
    made = UnetGenerator(spec).eval()
    for name, tensor in made.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(0.1 if name.endswith("bias") else 0, 0.15)
    assert made.appearance is not None
    made.appearance.set_table(table())
    return made


def spec_of(levels: int = 6, norm: Norm = "instance", upsample: Upsample = "deconv", ngf: int = 3) -> UnetSpec:
    return UnetSpec(levels, ngf, 3, 3, norm, upsample=upsample, appearance_rows=ROWS)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("upsample", ["deconv", "resize"])
@pytest.mark.parametrize("levels", [5, 8])
def test_export_appearance__its_checkpoints_are_recognised(
    tmp_path: Path, norm: Norm, upsample: Upsample, levels: int
) -> None:
    made = network(spec_of(levels, norm, upsample))
    torch.save(made.state_dict(), tmp_path / "g.pth")
    found = load_checkpoint(tmp_path / "g.pth").network
    assert found.spec == made.spec
    assert found.appearance is not None
    assert torch.equal(found.appearance.table, table())
    x, rows = torch.randn(2, 3, 256, 256), table()[:2]
    assert all(torch.equal(tensor, made.state_dict()[name]) for name, tensor in found.state_dict().items())
    with torch.inference_mode():  # sums may be taken in another order where weights lie elsewhere in memory
        torch.testing.assert_close(found(x, rows), made(x, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("appearance.table", None, "also has appearance.hidden.0.bias and 7 more"),
        ("appearance.out.weight", None, "lacks appearance.out.weight"),
        ("appearance.mean", torch.zeros(11), r"has appearance.mean of shape \(11,\) where .* \(12,\)"),
        ("appearance.table", torch.zeros(ROWS, 5), r"has appearance.table of shape \(40, 5\) where .* \(40, 12\)"),
        ("appearance.table", torch.full((ROWS, 12), torch.nan), "NaN or infinite numbers in appearance.table"),
        ("appearance.std", torch.zeros(12), "appearance.std that are not above 0"),
    ],
)
def test_export_appearance__damaged_ones(key: str, value: Tensor | None, message: str) -> None:
    state: dict[str, Any] = dict(network(spec_of()).state_dict())
    del state[key]
    if value is not None:
        state[key] = value
    with pytest.raises(CheckpointError, match=message):
        to_network(state)


def test_export_appearance__a_table_without_rows_is_none() -> None:
    assert infer_spec({**network(spec_of()).state_dict(), "appearance.table": torch.zeros(0, 12)}).appearance_rows == 0


@pytest.mark.parametrize(
    ("norm", "statistics"),
    [("instance", "instance"), ("batch", "instance"), ("batch", "running"), ("none", "instance")],
)
@pytest.mark.parametrize(
    ("upsample", "upsampling"),
    [("deconv", "pixel-shuffle"), ("deconv", "transposed"), ("resize", "pixel-shuffle"), ("resize", "resize")],
)
@pytest.mark.parametrize("levels", [5, 7])
def test_export_appearance__the_graph_equals_the_network_in_float64(
    norm: Norm, statistics: d.NormStatistics, upsample: Upsample, upsampling: Upsampling, levels: int
) -> None:
    made = network(spec_of(levels, norm, upsample)).double()
    x = (torch.rand(3, 1, 128, 128, dtype=torch.float64) * 2 - 1).expand(3, 3, 128, 128)
    rows = table()[[1, 7, 30]].double()
    with torch.inference_mode():
        found = d.deploy(made, statistics, upsampling).graph.unet(x[:, :1], rows)
        if norm == "batch" and statistics == "instance":
            made.train()
            for module in made.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.eval()
        expected = torch.cat([made(x[i : i + 1], rows[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_export_appearance__each_number_and_each_stage_takes_part() -> None:
    """So that a sum of two of them, or a scale for another layer, cannot go unnoticed above."""
    made = network(spec_of(7)).double()
    unet = d.sum_mask_channels(d.flatten(made))
    modulation = unet.modulation
    assert modulation is not None
    x = torch.rand(1, 1, 128, 128, dtype=torch.float64) * 2 - 1
    row = table()[:1].double()
    with torch.inference_mode():
        image = unet(x, row)
        for column in range(12):
            other = row.clone()
            other[:, column] += table()[:, column].std()
            assert (unet(x, other) - image).abs().max() > 1e-4
        at = 0
        for channels in made.spec.widths[:-1]:
            for _ in ("scale", "shift"):
                modulation.out.bias[at] += 1.0
                assert (unet(x, row) - image).abs().max() > 1e-7
                modulation.out.bias[at] -= 1.0
                at += channels
        assert at == modulation.out.bias.numel()


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize(
    ("upsample", "upsampling"),
    [("deconv", "pixel-shuffle"), ("deconv", "transposed"), ("resize", "pixel-shuffle"), ("resize", "resize")],
)
def test_export_appearance__onnxruntime_with_all_that_comes_in(
    batch: int, fp16: bool, upsample: Upsample, upsampling: Upsampling
) -> None:
    made = network(spec_of(6, "instance", upsample))
    specs = input_specs(made.spec, (64, 64), stochastic=True)
    content = to_onnx(d.deploy(made, upsampling=upsampling, stochastic=True).graph, specs)
    session = onnxruntime.InferenceSession(store_weights_as_fp16(content) if fp16 else content)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("mask", "tensor(uint8)", ["batch", 64, 64]),
        ("appearance", "tensor(float)", ["batch", 12]),
        ("dropout_bits", "tensor(uint8)", ["batch", 3 * 8 * 4 * 4 // 8]),
    ]
    inputs = {
        "mask": np.stack([disc(64, 8 + 4 * i, 30, 20 + 5 * i) for i in range(batch)]),
        "appearance": table()[:batch].numpy(),
        "dropout_bits": np.random.default_rng(1).integers(0, 256, (batch, 48)).astype(np.uint8),
    }
    found = session.run(None, inputs)[0]
    expected = gate.reference_images(made, inputs, "instance")
    assert np.abs(found.astype(int) - expected).max() <= (2 if fp16 else 1)
    assert expected.std() > 5


def test_export_appearance__the_table_is_not_in_the_graph() -> None:
    made = network(spec_of())
    content = to_onnx(d.deploy(made).graph, input_specs(made.spec, (64, 64)))
    assert not [t.name for t in onnx.load_from_string(content).graph.initializer if ROWS in t.dims]
    assert table().numpy().tobytes()[:64] not in content


def test_export_appearance__what_the_gate_runs() -> None:
    specs = input_specs(spec_of(), (64, 64))
    rows = table().numpy()
    inputs = gate.gate_inputs(gate.gate_masks((64, 64), None), specs, rows)
    assert list(inputs) == ["mask", "appearance"]
    mean, drawn, least, most = inputs["appearance"].reshape(4, 17, 12)
    np.testing.assert_allclose(mean, np.tile(rows.mean(0), (17, 1)), rtol=1e-6)
    assert all((row == rows).all(1).any() for row in drawn)
    assert len(np.unique(drawn, axis=0)) > 8
    for column in range(12):
        assert least[column, column] == rows[:, column].min()
        assert most[column, column] == rows[:, column].max()
    assert inputs["appearance"].dtype == np.float32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("steered") / "latest_net_G.pth"
    made = network(spec_of(6, upsample="resize"))
    made.model.up.weight.data *= 0.5  # pictures of a trained network's contrast
    torch.save(made.state_dict(), path)
    return path


@pytest.mark.parametrize("more", [(), ("--stochastic", "--weights", "fp16")])
def test_export_appearance__the_bundle(
    checkpoint: Path, tmp_path: Path, m2l: CommandLine, more: tuple[str, ...]
) -> None:
    outcome = m2l("export", checkpoint, tmp_path / "b", *more)
    assert outcome.code == 0, outcome.err
    with Synthesizer.open(tmp_path / "b") as synth:
        manifest = synth.bundle.manifest
        assert [i.role for i in manifest.inputs] == ["mask", "appearance", *(["dropout_bits"] if more else [])]
        assert manifest.network.appearance
        assert manifest.appearance is not None
        assert (manifest.appearance.count, manifest.appearance.names) == (ROWS, NAMES)
        np.testing.assert_array_equal(synth.bundle.read_appearances(), table().numpy())
        assert "another appearance" in manifest.models[0].parity.reference
        masks, rows = np.stack([disc(64, 15, 30, 30)] * 2), table()[3:5].numpy()
        images = synth(masks, seeds=[1, 1], appearances=rows)
    assert np.abs(images[0].astype(int) - images[1]).mean() > 1
    if not more:
        made = load_checkpoint(checkpoint).network
        expected = gate.reference_images(made, {"mask": masks, "appearance": rows}, "instance")
        assert np.abs(images.astype(int) - expected).max() <= 1
    card = (tmp_path / "b" / "MODEL_CARD.md").read_text()
    assert "Beside each mask goes an appearance" in card
    assert f"draws from {ROWS} of them in\n`appearances.npz`" in card
    assert m2l("verify", tmp_path / "b").code == 0
    save(tmp_path / "mask.png", disc(128))
    assert m2l("synth", tmp_path / "mask.png", tmp_path / "out.png", "--bundle", tmp_path / "b").code == 0


@pytest.mark.slow
def test_export_appearance__exporting_twice_gives_the_same_bundle(checkpoint: Path, tmp_path: Path) -> None:
    one, other = (
        export_checkpoint(checkpoint, tmp_path / name, ExportOptions(name="n", stochastic=True, weights="fp16"))
        for name in "ab"
    )
    assert one.bundle.sha256 == other.bundle.sha256


Parts = list[tuple[Value, Value]]


def exchanged(to: Builder, found: Parts) -> Parts:
    return [(shift, scale) for scale, shift in found]


def without_the_1(to: Builder, found: Parts) -> Parts:
    return [(to.node("Sub", f"wrong.{k}", scale, 1.0), shift) for k, (scale, shift) in enumerate(found)]


def negative(to: Builder, found: Parts) -> Parts:
    return [(scale, to.node("Neg", f"wrong.{k}", shift)) for k, (scale, shift) in enumerate(found)]


def scale_alone(to: Builder, found: Parts) -> Parts:
    return [(scale, to.node("Mul", f"wrong.{k}", shift, 0.0)) for k, (scale, shift) in enumerate(found)]


def of_the_batch(to: Builder, found: Parts) -> Parts:
    return [(to.node("ReduceMean", f"wrong.{k}", scale, (0,)), shift) for k, (scale, shift) in enumerate(found)]


@pytest.mark.parametrize("wrong", [exchanged, without_the_1, negative, scale_alone, of_the_batch])
def test_export_appearance__a_wrong_modulation_does_not_pass_the_gate(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Builder, Parts], Parts]
) -> None:
    modulation = onnx_writer._modulation
    monkeypatch.setattr(onnx_writer, "_modulation", lambda to, *rest: wrong(to, modulation(to, *rest)))
    with pytest.raises(ParityError, match="nothing was written"):
        export_checkpoint(checkpoint, tmp_path / "b")


def test_export_appearance__appearances_of_little_contrast_are_sampled_where_asked_for(
    checkpoint: Path, tmp_path: Path, m2l: CommandLine
) -> None:
    rows = table().numpy()
    apart = np.array([sum((float(row[i]) - float(row[6 + i])) ** 2 for i in range(3)) ** 0.5 for row in rows])
    floor = float(np.sort(apart)[10]) - 1e-3
    export_checkpoint(checkpoint, tmp_path / "b", ExportOptions(min_contrast=floor))
    with Synthesizer.open(tmp_path / "b", backend="onnxruntime") as synth:
        assert synth.extra.table is not None
        np.testing.assert_array_equal(synth.extra.table, rows)
        np.testing.assert_array_equal(sampled_appearances(synth.bundle), rows[apart >= floor])
        found = synth.bundle.manifest.appearance
        assert found is not None
        assert (found.count, found.sampled_count, synth.bundle.manifest.schema_version) == (ROWS, ROWS - 10, 3)
        assert found.min_contrast == pytest.approx(floor)
        masks = np.stack([disc(synth.image_size[0])] * 400)
        for text, count in ((None, ROWS - 10), ("min_contrast=0", ROWS)):
            images = synth(masks, seeds=list(range(400)), appearances=text)
            assert len({image.tobytes() for image in images}) == count
    card = (tmp_path / "b" / "MODEL_CARD.md").read_text()
    assert f"{floor:.3g}" in card
    assert f"draws from {ROWS - 10} of them" in card
    shown = m2l("inspect", str(tmp_path / "b"))
    assert f"of {ROWS} training images, sampled from the {ROWS - 10} of a contrast of {floor:g} or more" in " ".join(
        shown.out.split()
    )
    for value, message in (("101", "between 0 and 100 Delta E, got 101"), ("99", r"the largest is \d")):
        done = m2l("export", str(checkpoint), str(tmp_path / "c"), "--min-contrast", value)
        assert done.code == (2 if value == "101" else 1)
        assert re.search(message, done.err)
        assert not (tmp_path / "c").exists()


def test_export_appearance__masks_are_oriented_at_random_where_asked_for(
    checkpoint: Path, tmp_path: Path, m2l: CommandLine
) -> None:
    """The files are the same; images lie as the same network's do when it is given the turned mask."""
    export_checkpoint(checkpoint, tmp_path / "plain", ExportOptions())
    done = m2l("export", str(checkpoint), str(tmp_path / "b"), "--random-orientation")
    assert done.code == 0, done.err
    with (
        Synthesizer.open(tmp_path / "plain", backend="onnxruntime") as plain,
        Synthesizer.open(tmp_path / "b", backend="onnxruntime") as synth,
    ):
        assert (plain.bundle.manifest.random_orientation, synth.bundle.manifest.random_orientation) == (False, True)
        assert [one.file for one in plain.bundle.manifest.models] == [one.file for one in synth.bundle.manifest.models]
        assert plain.bundle.manifest.golden == synth.bundle.manifest.golden
        mask = disc(synth.image_size[0])
        mask[: len(mask) // 4, : len(mask) // 2] = 255
        for seed in range(4):
            number = draw_orientation(seed, synth.image_size)
            turned = plain(orient(mask[None], [number]), seeds=[seed])
            np.testing.assert_array_equal(synth(mask[None], seeds=[seed]), orient_back(turned, [number]))
    assert "rotated and flipped at random" in (tmp_path / "b" / "MODEL_CARD.md").read_text()
    replayed = m2l("verify", str(tmp_path / "b"))
    assert replayed.code == 0, replayed.out + replayed.err


def test_export_appearance__orientations_need_a_seed(tmp_path: Path, m2l: CommandLine) -> None:
    torch.save(UnetGenerator(UnetSpec(5, 2, 3, 3, "instance")).state_dict(), tmp_path / "latest_net_G.pth")
    done = m2l("export", str(tmp_path / "latest_net_G.pth"), str(tmp_path / "b"), "--random-orientation")
    assert (done.code, (tmp_path / "b").exists()) == (1, False)
    assert "takes the mask alone" in done.err
    assert "--stochastic" in done.err
