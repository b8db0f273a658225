"""The gate: what it looks at, what it computes, and that it stops what it should."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from functional_unet import original_generator
from support import disc, save

from m2l_export.graph.deploy import deploy
from m2l_export.graph.onnx_writer import input_specs, to_onnx
from m2l_export.parity import gate
from m2l_export.parity.gate import ROLE_ROWS
from m2l_runtime.backends.base import ModelSource
from m2l_runtime.bundle.roles import ROLES
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import InputError, MaskFileError, ParityError
from m2l_runtime.literals import Norm
from m2l_train.models.networks import UnetGenerator, UnetSpec


def network(norm: Norm = "instance", output_nc: int = 3) -> UnetGenerator:
    torch.manual_seed(2)
    made = UnetGenerator(UnetSpec(6, 4, 3, output_nc, norm)).eval()
    for name, tensor in made.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor) * 0.2 + (1.0 if "norm" in name else 0.0))
    return made


def source(made: UnetGenerator, side: int = 64) -> ModelSource:
    inputs = input_specs(made.spec, (side, side))
    return ModelSource(
        "generator.fp32.onnx",
        to_onnx(deploy(made).graph, inputs),
        "fp32",
        inputs,
        (TensorSpec(name="image", role="image", dtype="uint8", shape=("batch", side, side, 3)),),
    )


def test_gate__the_masks(tmp_path: Path) -> None:
    save(tmp_path / "own.png", disc(50, 7, 25, 25))
    masks = gate.gate_masks((256, 256), tmp_path)
    assert masks.shape == (5 + 12 + 1, 256, 256)
    at = {name: masks[gate.probe_index(name)] for name in gate.PROBES}
    assert (at["black"].max(), at["white"].min()) == (0, 255)
    assert (at["dot"] == 255).sum() == 4
    assert 0.48 < (at["noise"] == 255).mean() < 0.52
    assert abs((at["disc"] == 255).mean() - math.pi / 16) < 1e-3
    assert (masks[5:].reshape(13, -1).max(1) == 255).all()
    noise_sum = int(at["noise"].reshape(-1)[:64].astype(int) @ np.arange(64))
    assert noise_sum == int(gate.noise((256, 256)).reshape(-1)[:64].astype(int) @ np.arange(64))


def test_gate__a_folder_of_masks_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no mask files"):
        gate.gate_masks((256, 256), tmp_path)
    (tmp_path / "x.png").write_text("no")
    with pytest.raises(MaskFileError, match=r"x\.png"):
        gate.gate_masks((256, 256), tmp_path)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("output_nc", [1, 3])
def test_gate__the_reference_is_the_originals_computation(norm: Norm, output_nc: int) -> None:
    made = network(norm, output_nc)
    masks = np.stack([disc(64, 20, 30, 30), disc(64, 9, 40, 20)])
    state = {k: v.double() for k, v in made.state_dict().items()}
    for statistics in ("instance", "running"):
        found = gate.reference_images(made, {"mask": masks}, statistics)
        for mask, image in zip(masks, found, strict=True):
            x = torch.from_numpy(mask).double().expand(1, 3, 64, 64) / 127.5 - 1
            y = original_generator(state, x, 6, batch_norm="batch" if statistics == "instance" else "running")[0]
            expected = ((y + 1) * 127.5).clamp(0, 255).numpy().transpose(1, 2, 0)
            assert np.abs(image - np.broadcast_to(expected, (64, 64, 3))).max() < 0.51


def test_gate__the_figures() -> None:
    a = np.zeros((1, 2, 2, 3), np.uint8)
    b = a.copy()
    assert gate.compare(a, b) == (0, 0.0, None)
    b[0, 0, 0, 0], b[0, 1, 1, 2] = 6, 3
    largest, mean, psnr = gate.compare(a, b)
    assert (largest, mean) == (6, 9 / 12)
    assert psnr == pytest.approx(10 * math.log10(255**2 / (45 / 12)))
    assert gate.compare(b, a)[0] == 6, "bytes must not wrap around"


def test_gate__a_faithful_file_passes_at_every_batch_size() -> None:
    made, inputs = network(), {"mask": gate.gate_masks((64, 64), None)}
    reference = gate.reference_images(made, inputs, "instance")
    parity = gate.measure(reference, inputs, 17, source(made), "onnxruntime", 1)
    assert parity.max_level_difference <= 1
    assert parity.batch_sizes == (1, 3, 8)
    assert parity.mask_count == 17


def test_gate__one_wrong_weight_is_caught_and_a_known_miss_can_be_accepted() -> None:
    made, inputs = network(), {"mask": gate.gate_masks((64, 64), None)}
    reference = gate.reference_images(made, inputs, "instance")
    with torch.no_grad():
        made.model.up.bias[1] += 0.1  # type: ignore[index]
    with pytest.raises(ParityError, match=r"--max-level-difference \d+$") as error:
        gate.measure(reference, inputs, 17, source(made), "onnxruntime", 1)
    miss = int(str(error.value).rsplit(" ", 1)[1])
    assert 5 < miss < 20
    parity = gate.measure(reference, inputs, 17, source(made), "onnxruntime", miss)
    assert (parity.max_level_difference, parity.accepted_max_level_difference) == (miss, miss)


def test_gate__a_network_that_gives_nan_stops_the_export() -> None:
    made = network()
    with torch.no_grad():
        made.model.up.weight.fill_(float("nan"))
    with pytest.raises(ParityError, match="NaN or infinite"):
        gate.reference_images(made, {"mask": gate.gate_masks((64, 64), None)[:3]}, "instance")


def test_gate__a_network_that_does_not_look_at_the_mask_is_warned_about() -> None:
    masks = gate.gate_masks((64, 64), None)
    same = np.full((*masks.shape, 3), 90, np.uint8)
    assert "trained the other way round" in (gate.mask_blindness(same) or "")
    seeing = np.where(masks[..., None] == 255, np.uint8(90), np.uint8(190)) * np.ones(3, np.uint8)
    assert gate.mask_blindness(seeing) is None


def test_role_rows__have_every_role_but_the_mask() -> None:
    assert set(ROLE_ROWS) == {name for name, role in ROLES.items() if not role.is_required}
