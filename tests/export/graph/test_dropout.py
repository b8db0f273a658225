"""Dropout as an input: the deploy graph with bits against PyTorch's own dropout, whose choices are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from command_line import CommandLine
from support import REFERENCE, TINY, Array, disc
from torch import Tensor, nn

from m2l_export import ExportOptions, export_checkpoint
from m2l_export.checkpoint import load_checkpoint
from m2l_export.graph import deploy as d
from m2l_export.graph import onnx_writer
from m2l_export.graph.deploy import Upsampling
from m2l_export.graph.onnx_builder import Builder, Value
from m2l_export.graph.onnx_writer import input_specs, to_onnx
from m2l_export.parity import gate
from m2l_runtime import Synthesizer
from m2l_runtime.conditioning.conditions import dropout_bits, item_seed
from m2l_runtime.errors import CheckpointError, ParityError
from m2l_runtime.literals import Norm, Upsample
from m2l_runtime.masks.mask_file import read_mask
from m2l_train.models.networks import UnetGenerator, UnetSpec

pytestmark = pytest.mark.usefixtures("only_onnxruntime")

CHECKPOINTS = [
    pytest.param(TINY / "tiny_net_G.pth", id="tiny"),
    pytest.param(
        REFERENCE / "latest_net_G.pth",
        id="trained",
        marks=pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference checkpoint is not here"),
    ),
]
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference checkpoint is not here")

Change = Callable[[Tensor], Tensor]


@contextmanager
def live_dropout(network: nn.Module, p: float = 0.5, change: Change = lambda y: y) -> Iterator[list[Tensor]]:
    """PyTorch's dropout, drawing as the original does when it tests; gives what each layer kept, as 0 and 1."""
    kept: list[Tensor] = []

    def record(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        assert (inputs[0] != 0).all(), "a zero would hide whether it is kept"
        kept.append(output != 0)
        return change(output)

    layers = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    for layer in layers:
        layer.train()
        layer.p = p
    try:
        yield kept
    finally:
        for layer, hook in zip(layers, hooks, strict=True):
            hook.remove()
            layer.eval()
            layer.p = 0.5


def packed(kept: list[Tensor]) -> Tensor:
    """(1, n) bytes as docs/bundle.md says: the smallest tensor first, C order, each byte's lowest bit first."""
    bits = np.concatenate([k.numpy().ravel() for k in sorted(kept, key=Tensor.numel)])
    content = [int(sum(int(bit) << i for i, bit in enumerate(bits[at : at + 8]))) for at in range(0, len(bits), 8)]
    return torch.tensor(content, dtype=torch.uint8)[None]


def network(spec: UnetSpec, seed: int = 0) -> UnetGenerator:
    """A float64 generator in evaluation with non-zero biases and statistics."""
    torch.manual_seed(seed)
    made = UnetGenerator(spec).double().eval()
    for name, tensor in made.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) * 3 + 0.2)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor) * 0.3 + (0.2 if name.endswith("bias") else 0))
    return made


def run_graph(deployed: d.Deployed, x: Tensor, bits: Tensor, appearance: Tensor | None = None) -> Tensor:
    y: Tensor = deployed.graph.unet(x[:, :1], appearance, d.dropout_factors(bits.to(x.dtype)))
    return y


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize(
    ("upsample", "upsampling"),
    [("deconv", "pixel-shuffle"), ("deconv", "transposed"), ("resize", "pixel-shuffle"), ("resize", "resize")],
)
@pytest.mark.parametrize(("levels", "height", "width"), [(6, 64, 64), (7, 128, 256), (8, 256, 256)])
def test_dropout__the_graph_with_bits_is_the_network_with_dropout(
    norm: Norm, upsample: Upsample, upsampling: Upsampling, levels: int, height: int, width: int
) -> None:
    made = network(UnetSpec(levels, 2, 3, 3, norm, upsample=upsample))
    deployed = d.deploy(made, "running" if norm == "batch" else "instance", upsampling, stochastic=True)
    x = (torch.rand(3, 1, height, width, dtype=torch.float64) * 2 - 1).expand(3, 3, height, width)
    expected, bits = [], []
    with torch.inference_mode():
        for one in x:
            with live_dropout(made) as kept:
                expected.append(made(one[None]))
            bits.append(packed(kept))
        found = run_graph(deployed, x, torch.cat(bits))
        off = made(x)
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-9, rtol=0)
    assert (found - off).abs().max() > 1e-3, "dropout does something"
    assert d.dropout_byte_count(made.spec, (height, width)) == bits[0].shape[1]
    assert [tuple(k.shape[1:]) for k in sorted(kept, key=Tensor.numel)] == list(
        d.dropout_shapes(made.spec, (height, width))
    )


@pytest.mark.parametrize("path", CHECKPOINTS)
def test_dropout__the_originals_checkpoints_to_the_last_digit(path: Path) -> None:
    made = load_checkpoint(path).network.double()
    deployed = d.deploy(made, stochastic=True)
    x = torch.from_numpy(disc()).double().expand(1, 3, 256, 256) / 127.5 - 1
    with torch.inference_mode(), live_dropout(made) as kept:
        expected = made(x)
        bits = packed(kept)
        torch.testing.assert_close(run_graph(deployed, x, bits), expected, atol=1e-12, rtol=0)
        for wrong in (
            bits.flip(1),
            bits.roll(1, 1),
            ~bits,
            torch.from_numpy(np.packbits(np.unpackbits(bits.numpy(), bitorder="little")))[None],
        ):
            assert (run_graph(deployed, x, wrong) - expected).abs().max() > 1e-3, (
                "another order of bits is another image"
            )


def test_dropout__every_byte() -> None:
    every = np.arange(256, dtype=np.uint8)
    for dtype in (torch.float32, torch.float64):
        found = d.dropout_factors(torch.from_numpy(every)[None].to(dtype))
        assert found.dtype == dtype
        expected = [2.0 * (value >> bit & 1) for value in range(256) for bit in range(8)]
        assert found[0].tolist() == expected


def test_dropout__the_bytes_of_unet_256_at_full_width() -> None:
    spec = UnetSpec(8, 64, 3, 3, "instance")
    assert d.dropout_shapes(spec, (256, 256)) == ((512, 4, 4), (512, 8, 8), (512, 16, 16))
    assert d.dropout_byte_count(spec, (256, 256)) == 21_504
    assert d.dropout_byte_count(spec, (256, 512)) == 43_008


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_dropout__onnxruntime_agrees_and_takes_any_batch(batch: int) -> None:
    made = load_checkpoint(TINY / "tiny_net_G.pth").network
    specs = input_specs(made.spec, (256, 256), stochastic=True)
    session = onnxruntime.InferenceSession(to_onnx(d.deploy(made, stochastic=True).graph, specs))
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("mask", "tensor(uint8)", ["batch", 256, 256]),
        ("dropout_bits", "tensor(uint8)", ["batch", 672]),
    ]
    masks = np.stack([disc(radius=20 + 10 * i) for i in range(batch)])
    bits = []
    expected = []
    for mask in masks:
        with torch.inference_mode(), live_dropout(made) as kept:
            y = made(torch.from_numpy(mask).float().expand(1, 3, 256, 256) / 127.5 - 1)[0]
        expected.append(((y + 1) * 127.5).permute(1, 2, 0).numpy())
        bits.append(packed(kept).numpy())
    found = session.run(None, {"mask": masks, "dropout_bits": np.concatenate(bits)})[0]
    assert np.abs(found - np.stack(expected)).max() < 0.51 + 1e-2


def test_dropout__operators_that_tensorrt_refuses_are_not_used() -> None:
    """It has none on bits, and moves no bytes about: they are cast first."""
    made = network(UnetSpec(6, 2, 3, 3, "instance")).float()
    specs = input_specs(made.spec, (64, 64), stochastic=True)
    model = onnx.load_from_string(to_onnx(d.deploy(made, stochastic=True).graph, specs))
    assert not {node.op_type for node in model.graph.node} & {"Dropout", "BitShift", "BitwiseAnd", "Mod", "Greater"}
    (reader,) = [node for node in model.graph.node if "dropout_bits" in node.input]
    assert reader.op_type == "Cast"


def test_dropout__networks_without_dropout() -> None:
    with pytest.raises(CheckpointError, match=r"has no dropout .* this network has 5.*leave out --stochastic"):
        d.deploy(network(UnetSpec(5, 2, 3, 3, "instance")), stochastic=True)
    with pytest.raises(CheckpointError, match="was trained without dropout; leave out --stochastic"):
        d.deploy(network(UnetSpec(8, 2, 3, 3, "instance", dropout=False)), stochastic=True)
    assert d.dropout_byte_count(UnetSpec(8, 2, 3, 3, "instance", dropout=False), (256, 256)) == 0


def samples(made: UnetGenerator, mask: Array, count: int) -> Tensor:
    """(count, 3, H, W) of the deploy graph, with the bits that the runtime draws."""
    deployed = d.deploy(made, stochastic=True)
    size = d.dropout_byte_count(made.spec, mask.shape)
    x = torch.from_numpy(mask).float()[None, None] / 127.5 - 1
    drawn = [torch.from_numpy(dropout_bits(item_seed(7, "mask", k), size).copy())[None] for k in range(1, count + 1)]
    with torch.inference_mode():
        return torch.cat([run_graph(deployed, x, bits) for bits in drawn]).double()


def live_samples(made: UnetGenerator, mask: Array, count: int, p: float = 0.5, change: Change = lambda y: y) -> Tensor:
    """As many of PyTorch with dropout on, nothing of ours in it."""
    torch.manual_seed(11)
    x = torch.from_numpy(mask).float().expand(1, 3, *mask.shape) / 127.5 - 1
    with torch.inference_mode(), live_dropout(made, p, change):
        return torch.cat([made(x) for _ in range(count)]).double()


def apart(a: Tensor, b: Tensor) -> tuple[float, float]:
    """(squared distance of the means in squared standard errors, ratio of the variances), over all pixels at once.

    Of two samples of one distribution both are 1 on average.
    """
    of_a, of_b = a.var(0).mean(), b.var(0).mean()
    return float(((a.mean(0) - b.mean(0)) ** 2).mean() / (of_a / len(a) + of_b / len(b))), float(of_a / of_b)


def agree(a: Tensor, b: Tensor) -> bool:
    """Measured: 0.77 to 1.18 and 0.95 to 1.04 for the same distribution, 64 samples of each, over eight pairs."""
    distance, ratio = apart(a, b)
    return distance < 1.6 and 1 / 1.12 < ratio < 1.12


@pytest.mark.slow
@needs_reference
@pytest.mark.parametrize("name", ["ISIC_0003582.png", "disc.png"])
def test_dropout__samples_are_spread_as_those_of_live_dropout(name: str) -> None:
    made = load_checkpoint(REFERENCE / "latest_net_G.pth").network
    assert isinstance(made, UnetGenerator)
    mask = read_mask(REFERENCE / "masks" / name, (256, 256)).mask
    ours = samples(made, mask, 64)
    assert agree(ours, live_samples(made, mask, 64))
    assert not agree(ours, live_samples(made, mask, 64, p=0.4))
    assert not agree(ours, live_samples(made, mask, 64, change=lambda y: y * 0.5)), "kept, but not scaled"
    assert not agree(ours * 0 + ours[:1], live_samples(made, mask, 64)), "the same bits each time"


def test_dropout__the_gates_reference_drops_as_pytorch_does() -> None:
    made = load_checkpoint(TINY / "tiny_net_G.pth").network
    with torch.inference_mode(), live_dropout(made) as kept:
        y = made(torch.from_numpy(disc()).float().expand(1, 3, 256, 256) / 127.5 - 1)[0]
    inputs = {"mask": disc()[None], "dropout_bits": packed(kept).numpy()}
    found = gate.reference_images(made, inputs, "instance")[0]
    assert np.abs(found - ((y + 1) * 127.5).permute(1, 2, 0).numpy()).max() < 0.51
    assert not made.training
    with pytest.raises(ParityError, match="drops 5,376 values, and there are bits for 5,384"):
        gate.reference_images(made, inputs | {"dropout_bits": np.zeros((1, 673), np.uint8)}, "instance")


def test_dropout__what_the_gate_runs() -> None:
    specs = input_specs(UnetSpec(6, 4, 3, 3, "instance"), (64, 64), stochastic=True)
    masks = gate.gate_masks((64, 64), None)
    inputs = gate.gate_inputs(masks, specs)
    assert list(inputs) == ["mask", "dropout_bits"]
    np.testing.assert_array_equal(inputs["mask"], np.concatenate([masks] * 4))
    bits = inputs["dropout_bits"].reshape(4, 17, -1)
    assert (bits[2, ::2] == 255).all()
    assert (bits[3, ::2] == 0).all()
    drawn = np.concatenate([bits[0], bits[1], bits[2, 1::2], bits[3, 1::2]])
    assert len(np.unique(drawn, axis=0)) == len(drawn)
    assert 0.48 < np.unpackbits(drawn).mean() < 0.52


@pytest.fixture(scope="module")
def stochastic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stochastic") / "bundle"
    export_checkpoint(TINY / "tiny_net_G.pth", path, ExportOptions(stochastic=True))
    return path


def test_dropout__a_stochastic_bundle(stochastic: Path, m2l: CommandLine) -> None:
    with Synthesizer.open(stochastic) as synth:
        manifest = synth.bundle.manifest
        assert manifest.network.dropout == "input"
        assert manifest.inputs[1].shape == ("batch", 672)
        assert (
            "(4 times, each with other dropout bits), dropout on, by the same bits"
            in manifest.models[0].parity.reference
        )
        a, b, c = (synth(disc()[None], seeds=[seed])[0].astype(int) for seed in (1, 2, 1))
    assert (a == c).all()
    assert np.abs(a - b).mean() > 0.05
    assert "Dropout is on" in (stochastic / "MODEL_CARD.md").read_text()
    assert m2l("verify", stochastic).code == 0


def backwards(to: Builder, factors: Value) -> Value:
    return to.node("Slice", "wrong", factors, (-1,), (-1 - factors.shape[0],), (1,), (-1,))


def rolled(to: Builder, factors: Value) -> Value:
    (count,) = factors.shape
    last = to.node("Slice", "wrong.last", factors, (count - 1,), (count,), (1,), shape=(1,))
    others = to.node("Slice", "wrong.others", factors, (0,), (count - 1,), (1,), shape=(count - 1,))
    return to.node("Concat", "wrong", last, others, shape=(count,), axis=1)


def not_doubled(to: Builder, factors: Value) -> Value:
    return to.node("Mul", "wrong", factors, 0.5)


def inverted(to: Builder, factors: Value) -> Value:
    return to.node("Add", "wrong", to.node("Neg", "wrong.negative", factors), 2.0)


@pytest.mark.parametrize("wrong", [backwards, rolled, not_doubled, inverted])
def test_dropout__a_graph_that_drops_elsewhere_does_not_pass_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Builder, Value], Value]
) -> None:
    torch.save(network(UnetSpec(6, 4, 3, 3, "instance")).float().state_dict(), tmp_path / "latest_net_G.pth")
    export_checkpoint(tmp_path / "latest_net_G.pth", tmp_path / "right", ExportOptions(stochastic=True))
    factors = onnx_writer._dropout_factors
    monkeypatch.setattr(onnx_writer, "_dropout_factors", lambda to, packed: wrong(to, factors(to, packed)))
    with pytest.raises(ParityError, match="nothing was written"):
        export_checkpoint(tmp_path / "latest_net_G.pth", tmp_path / "b", ExportOptions(stochastic=True))


def test_dropout__the_command_line(tmp_path: Path, m2l: CommandLine) -> None:
    state = UnetGenerator(UnetSpec(5, 2, 3, 3, "instance")).state_dict()
    torch.save(state, tmp_path / "g.pth")
    outcome = m2l("export", tmp_path / "g.pth", tmp_path / "b", "--stochastic")
    assert outcome.code == 1
    assert "g.pth: has no dropout" in outcome.err
    assert not (tmp_path / "b").exists()
