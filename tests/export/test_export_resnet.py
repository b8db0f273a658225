"""ResNet generators: recognised, refused where damaged, exported, validated, and told about in the bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine
from functional_resnet import original_resnet
from support import save, slow
from synthetic_data import data_folder
from torch import Tensor

from m2l_export import ExportOptions, ExportReport, export_checkpoint
from m2l_export.checkpoint import load_checkpoint
from m2l_export.graph.onnx_builder import Builder
from m2l_export.parity import gate
from m2l_runtime import Synthesizer
from m2l_runtime.errors import CheckpointError, ParityError
from m2l_runtime.literals import Norm
from m2l_train.models.networks import UnetGenerator, UnetSpec
from m2l_train.models.resnet import ResnetGenerator, ResnetSpec

pytestmark = pytest.mark.usefixtures("only_onnxruntime")

SPEC = ResnetSpec(2, 3, 3, 3, "instance", dropout=True)


def resnet(spec: ResnetSpec = SPEC, seed: int = 0) -> ResnetGenerator:
    torch.manual_seed(seed)
    made = ResnetGenerator(spec).eval()
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor) / (tensor[0].numel() if tensor.ndim == 4 else 9) ** 0.5)
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet") / "latest_net_G.pth"
    torch.save({f"module.{name}": tensor for name, tensor in resnet().state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def report(checkpoint: Path, only_onnxruntime: None) -> ExportReport:
    options = ExportOptions(
        name="small", image_size=32, precisions=("fp32", "fp16"), engines=("onnxruntime",), stochastic=True
    )
    return export_checkpoint(checkpoint, checkpoint.parent / "bundle", options)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("dropout", [False, True])
def test_checkpoint__a_resnet_is_recognised(norm: Norm, dropout: bool, tmp_path: Path) -> None:
    spec = ResnetSpec(3, 2, 1, 3, norm, dropout)
    torch.save(resnet(spec).state_dict(), tmp_path / "g.pth")
    found = load_checkpoint(tmp_path / "g.pth").network
    assert isinstance(found, ResnetGenerator)
    assert found.spec == spec
    assert not found.training
    expected = resnet(spec).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())


def test_checkpoint__statistics_of_old_instance_norms_are_dropped(tmp_path: Path) -> None:
    state = resnet().state_dict()
    for key in ("model.2", "model.10.conv_block.7"):
        state |= {f"{key}.running_mean": torch.zeros(3), f"{key}.running_var": torch.ones(3)}
    torch.save(state, tmp_path / "g.pth")
    found = load_checkpoint(tmp_path / "g.pth").network
    assert isinstance(found, ResnetGenerator)
    assert found.spec.norm == "instance"


DAMAGES: list[tuple[dict[str, Tensor | None], str]] = [
    ({"model.1.weight": None}, r"lacks model\.1\.weight, which that of the original has"),
    ({"model.19.weight": None}, r"lacks model\.19\.weight"),
    ({"model.4.weight": None}, r"like a ResNet generator of 2 blocks and ngf 3, but lacks model\.4\.weight"),
    ({"model.22.weight": torch.zeros(1)}, r"also has model\.22\.weight"),
    ({"model.7.weight": torch.zeros(12, 6, 4, 4)}, r"model\.7\.weight of shape .* ask for \(12, 6, 3, 3\)"),
    ({"model.1.weight": torch.tensor(1.0)}, "has single numbers in place of weights"),
    ({"model.1.weight": torch.zeros(3, 4, 7, 7)}, "a ResNet generator with 4 input channels; expected 1 or 3"),
    ({"model.19.weight": torch.zeros(2, 3, 7, 7)}, "a ResNet generator with 2 output channels"),
    ({"model.1.weight": torch.zeros(1).expand(1 << 40, 3, 7, 7)}, "is none|of shape"),
    ({"model.11.conv_block.6.bias": torch.full((12,), torch.nan)}, r"NaN or infinite numbers in model\.11"),
]


@pytest.mark.parametrize(("changes", "message"), DAMAGES)
def test_checkpoint__damaged_resnets(changes: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    state: dict[str, Any] = resnet().state_dict() | changes
    path = tmp_path / "x_net_G.pth"
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")


def test_export__the_bundle_says_what_it_is(report: ExportReport, m2l: CommandLine) -> None:
    manifest = report.bundle.manifest
    network = manifest.network
    assert (manifest.schema_version, network.architecture, network.blocks) == (2, "resnet", 2)
    assert (network.levels, network.ngf, network.norm, network.dropout) == (2, 3, "instance", "input")
    assert [(one.role, one.shape[1:]) for one in manifest.inputs] == [
        ("mask", (32, 32)),
        ("dropout_bits", (2 * 12 * 8 * 8 // 8,)),
    ]
    assert {model.precision for model in manifest.models} == {"fp32", "fp16"}
    assert {model.form for model in manifest.models} == {"sub-pixel"}
    assert report.parity.max_level_difference <= 1
    assert report.variants[0].fidelity.max_levels <= 2
    card = " ".join((report.bundle.path / "MODEL_CARD.md").read_text().split())
    assert "ResNet generator, 2 blocks, ngf 3, 3 input and 3 output channels, norm instance" in card
    shown = " ".join(m2l("inspect", report.bundle.path).out.split())
    parameters = sum(parameter.numel() for parameter in resnet().parameters())
    assert f"resnet, 2 blocks, ngf 3, norm instance (statistics: instance), {parameters:,}" in shown
    assert m2l("verify", report.bundle.path).code == 0


def test_export__images_are_the_descriptions(checkpoint: Path, tmp_path: Path, m2l: CommandLine) -> None:
    bundle = export_checkpoint(checkpoint, tmp_path / "b", ExportOptions(image_size=24, upsampling="transposed")).bundle
    masks = (np.random.default_rng(1).random((3, 24, 24)) < 0.5).astype(np.uint8) * 255
    with Synthesizer.open(bundle, backend="onnxruntime") as synth:
        images = synth(masks)
    state = {name: tensor.double() for name, tensor in resnet().state_dict().items()}
    for mask, image in zip(masks, images, strict=True):
        x = (torch.from_numpy(mask).double() / 127.5 - 1).expand(1, 3, 24, 24)
        expected = ((original_resnet(state, x, 2)[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
        assert np.abs(image - expected).max() <= 1
    save(tmp_path / "m.png", masks[0])
    assert m2l("synth", tmp_path / "m.png", tmp_path / "out", "--bundle", bundle.path).code == 0


def test_gate__uniform_masks_have_no_defined_image_behind_instance_norms(
    checkpoint: Path, tmp_path: Path, m2l: CommandLine
) -> None:
    """Rounding alone decides them: each value changed by its last bit gives another image, by PyTorch itself."""
    network = resnet()
    for value in (-1.0, 1.0):
        x = torch.full((1, 3, 32, 32), value)
        last = torch.randint(-1, 2, (32, 32), generator=torch.Generator().manual_seed(3)) * 2.0**-23
        with torch.inference_mode():
            apart = (network(x) - network(x * (1 + last))).abs().max() * 127.5
        assert apart > 20
    assert not gate.defines_uniform(network, (32, 32), "instance")
    outcome = m2l("export", checkpoint, tmp_path / "b", "--image-size", "32")
    assert outcome.code == 0
    assert gate.UNDEFINED_UNIFORM in " ".join(outcome.err.split())


def test_gate__other_networks_define_them() -> None:
    assert gate.defines_uniform(resnet(ResnetSpec(2, 3, 3, 3, "batch")), (32, 32), "running")
    assert gate.defines_uniform(resnet(ResnetSpec(2, 3, 3, 3, "batch")), (32, 32), "instance")
    assert gate.defines_uniform(resnet(ResnetSpec(2, 3, 3, 3, "none")), (32, 32), "instance")
    unet = UnetGenerator(UnetSpec(5, 2, 3, 3, "instance")).eval()
    assert gate.defines_uniform(unet, (32, 32), "instance")
    masks = np.zeros((3, 32, 32), np.uint8)
    masks[1], masks[2, 4:9, 3:7] = 255, 255
    changed = gate.interrupt_uniform(masks)
    assert [np.unique(mask).tolist() for mask in changed] == [[0, 255]] * 3
    assert 0.03 < (changed[0] > 0).mean() < 0.06
    np.testing.assert_array_equal(changed[1], 255 - changed[0])
    np.testing.assert_array_equal(changed[2], masks[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image-size", "30"), "works on multiples of 4 pixels from 8 to 4096, got --image-size 30"),
        (("--image-size", "4"), "works on multiples of 4 pixels from 8 to 4096, got --image-size 4"),
        (("--norm-statistics", "running"), "no running statistics (its norm is 'instance')"),
        (("--upsampling", "resize"), "has transposed convolutions, which cannot be written as repeated pixels"),
        (("--stochastic", "--image-size", "12"), "fill no whole bytes"),
        (("--min-contrast", "3"), "was trained without appearances; leave out --min-contrast"),
    ],
)
def test_export__options_that_do_not_suit_it(
    tmp_path: Path, m2l: CommandLine, options: tuple[str, ...], message: str
) -> None:
    torch.save(resnet(ResnetSpec(1, 1, 3, 3, "instance")).state_dict(), tmp_path / "g.pth")
    outcome = m2l("export", tmp_path / "g.pth", tmp_path / "b", "--image-size", "32", *options)
    assert outcome.code == 1
    assert message in " ".join(outcome.err.split())
    assert not (tmp_path / "b").exists()


def test_export__without_dropout_there_is_none_to_let_in(tmp_path: Path) -> None:
    torch.save(resnet(ResnetSpec(2, 3, 3, 3, "instance", dropout=False)).state_dict(), tmp_path / "g.pth")
    with pytest.raises(CheckpointError, match="was trained without dropout; leave out --stochastic"):
        export_checkpoint(tmp_path / "g.pth", tmp_path / "b", ExportOptions(image_size=32, stochastic=True))


def test_export__a_graph_that_reflects_otherwise_does_not_pass(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Builder.node

    def edge(self: Any, *args: Any, **attributes: Any) -> Any:
        attributes |= {"mode": "edge"} if attributes.get("mode") == "reflect" else {}
        return real(self, *args, **attributes)

    monkeypatch.setattr(Builder, "node", edge)
    with pytest.raises(ParityError, match=r"differs from the network by up to"):
        export_checkpoint(checkpoint, tmp_path / "b", ExportOptions(image_size=32))


def test_train__a_run_of_a_resnet_is_exported(tmp_path: Path, m2l: CommandLine) -> None:
    data = data_folder(tmp_path / "data", 2, 1)
    settings = ("--generator", "resnet_6blocks", "--image-size", 128, "--ngf", 1, "--ndf", 1, "--norm", "batch")
    brief = ("--max-steps", 1, "--threads", 1, "--device", "cpu")
    done = m2l("train", data, tmp_path / "run", *settings, *brief)
    assert done.code == 0, done.err
    report = export_checkpoint(tmp_path / "run", tmp_path / "b")
    network, training = report.bundle.manifest.network, report.bundle.manifest.provenance.training
    assert (network.architecture, network.blocks, network.norm) == ("resnet", 6, "batch")
    assert report.bundle.manifest.image_size == (128, 128)
    assert training is not None
    assert training.config["generator"] == "resnet_6blocks"
    torch.save(resnet().state_dict(), tmp_path / "run" / "latest_net_G.pth")
    says = re.escape(
        "holds a ResNet generator of blocks, ngf, norm and dropout (2, 3, 'instance', True), but config.json"
    )
    with pytest.raises(CheckpointError, match=rf"{says} beside it says \(6, 1, 'batch', True\)"):
        export_checkpoint(tmp_path / "run", tmp_path / "c")


@pytest.mark.parametrize("engine", [slow("onnxruntime")])
def test_export__in_int8(tmp_path: Path, m2l: CommandLine, engine: str) -> None:
    torch.save(resnet(ResnetSpec(1, 2, 3, 3, "instance")).state_dict(), tmp_path / "g.pth")
    limits = ("--min-psnr", "20", "--min-worst-psnr", "15", "--max-mean-difference", "20", "--max-color-shift", "5")
    given = ("--image-size", "32", "--precision", "int8", "--engines", engine, "--calibrate", "shapes:60,seed=2")
    outcome = m2l("export", tmp_path / "g.pth", tmp_path / "b", *given, *limits)
    assert outcome.code == 0, outcome.err
    with Synthesizer.open(tmp_path / "b", backend=engine, precision="int8") as synth:
        (model,) = (one for one in synth.bundle.manifest.models if one.precision == "int8")
    assert (model.form, model.weights, model.engines) == ("sub-pixel", "int8", (engine,))
    assert "blocks.0.second" in (tmp_path / "b" / "MODEL_CARD.md").read_text()
