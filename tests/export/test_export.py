"""Checkpoints to bundles, end to end, through the command line and through Python."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from command_line import CommandLine
from functional_unet import original_generator
from support import REFERENCE, TINY, TINY_BUNDLE, assert_equals_original, disc, oracle, save, slow

from m2l_export import ExportOptions, export, export_checkpoint
from m2l_export.graph.deploy import ByteGraph, DeployUnet, SubPixelConv2d
from m2l_export.graph.onnx_writer import to_onnx
from m2l_export.graph.stage import Stage
from m2l_runtime import Synthesizer, open_bundle
from m2l_runtime.backends.engines import BACKENDS
from m2l_runtime.bundle.schema import TensorSpec
from m2l_runtime.errors import CheckpointError, InputError, OutputError, ParityError
from m2l_runtime.literals import Norm
from m2l_train.models.networks import UnetGenerator, UnetSpec

CHECKPOINT = TINY / "tiny_net_G.pth"


def checkpoint(path: Path, spec: UnetSpec, seed: int = 0) -> Path:
    """Random weights of a spread that gives pictures, statistics off (0, 1)."""
    torch.manual_seed(seed)
    state = UnetGenerator(spec).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor) * 0.1 + (0.5 if name.endswith("running_mean") else 0.0))
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "bundle"
    export_checkpoint(CHECKPOINT, path, ExportOptions(name="tiny"))
    return path


def test_export__the_bundle_equals_the_original(exported: Path) -> None:
    with Synthesizer.open(exported) as synth:
        for _, mask, original in oracle(TINY / "masks", TINY / "images_eval"):
            assert_equals_original(synth(mask[None])[0], original)


def test_export__the_bundle_of_the_runtimes_tests_is_what_export_makes_today(
    exported: Path, tiny_synth: Synthesizer
) -> None:
    masks = open_bundle(TINY_BUNDLE).read_golden()[0]["mask"]
    with Synthesizer.open(exported) as synth:
        assert np.abs(synth(masks).astype(int) - tiny_synth(masks)).max() <= 1
    ours, theirs = open_bundle(exported).manifest, open_bundle(TINY_BUNDLE).manifest
    for name in ("image_size", "resampling", "inputs", "outputs", "network"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.provenance.checkpoint_sha256 == theirs.provenance.checkpoint_sha256


def test_export__exporting_twice_gives_the_same_bundle(exported: Path, tmp_path: Path) -> None:
    again = export_checkpoint(CHECKPOINT, tmp_path / "again", ExportOptions(name="tiny")).bundle
    assert again.sha256 == open_bundle(exported).sha256


def test_export__what_a_bundle_holds(exported: Path) -> None:
    assert sorted(os.listdir(exported)) == ["MODEL_CARD.md", "generator.fp32.onnx", "golden.npz", "manifest.json"]
    manifest = json.loads((exported / "manifest.json").read_text())
    engines = [engine for model in manifest["models"] for engine in model["engines"]]
    assert engines in (["onnxruntime"], ["onnxruntime", "openvino"])
    for model in manifest["models"]:
        assert model["precision"] == "fp32"
        assert model["parity"]["max_level_difference"] <= 1
        assert model["parity"]["mask_count"] == 17
        assert model["parity"]["batch_sizes"] == [1, 3, 8]
    assert manifest["provenance"]["checkpoint"] == "tiny_net_G.pth"
    assert str(exported.parent) not in (exported / "manifest.json").read_text()
    card = (exported / "MODEL_CARD.md").read_text()
    assert "Never for diagnosis" in card
    assert "synthetic" in card
    assert manifest["provenance"]["checkpoint_sha256"] in card


@pytest.mark.usefixtures("without_openvino")
def test_export__a_new_backend_gets_the_fp32_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(BACKENDS["onnxruntime"], precisions=("fp32",), is_reference=False)
    monkeypatch.setitem(cast(dict[str, Any], BACKENDS), "echo", entry)
    steps: list[str] = []
    export_checkpoint(CHECKPOINT, tmp_path / "bundle", ExportOptions(), on_step=steps.append)
    assert "validating: the same through echo" in steps
    with Synthesizer.open(tmp_path / "bundle", backend="echo") as synth:
        assert synth(disc()[None]).shape == (1, 256, 256, 3)


@pytest.mark.parametrize("statistics", ["instance", "running"])
@pytest.mark.parametrize(("input_nc", "output_nc"), [(3, 3), (1, 1)])
def test_export__batch_norm_both_ways(tmp_path: Path, statistics: str, input_nc: int, output_nc: int) -> None:
    path = checkpoint(tmp_path / "latest_net_G.pth", UnetSpec(6, 4, input_nc, output_nc, "batch"))
    made = export_checkpoint(path, tmp_path / "b", ExportOptions(norm_statistics=statistics)).bundle  # type: ignore[arg-type]
    assert made.manifest.network.norm_statistics == statistics
    mask = disc(64, 20, 30, 34)
    x = torch.from_numpy(mask).double().expand(1, input_nc, 64, 64) / 127.5 - 1
    state = {k: v.double() for k, v in torch.load(path, weights_only=True).items()}
    y = original_generator(state, x, 6, batch_norm="batch" if statistics == "instance" else "running")[0]
    expected = ((y + 1) * 127.5).numpy().transpose(1, 2, 0)
    with Synthesizer.open(made) as synth:
        image = synth(mask[None])[0]
    assert np.abs(image - np.broadcast_to(expected, (64, 64, 3))).max() < 0.6
    assert image.std() > 3


@pytest.mark.parametrize(
    ("levels", "image_size", "norm"),
    [slow(7, None, "instance"), (7, 256, "instance"), slow(6, 192, "none"), (5, 64, "batch")],
)
def test_export__depths_and_sizes(tmp_path: Path, levels: int, image_size: int | None, norm: Norm) -> None:
    path = checkpoint(tmp_path / "100_net_G.pth", UnetSpec(levels, 2, 3, 3, norm))
    made = export_checkpoint(path, tmp_path / "b", ExportOptions(image_size=image_size)).bundle
    side = image_size or 1 << levels
    assert made.manifest.image_size == (side, side)
    with Synthesizer.open(made) as synth:
        assert synth(np.full((2, side, side), 255, np.uint8)).shape == (2, side, side, 3)


def test_export__sizes_that_the_network_cannot_do(tmp_path: Path) -> None:
    for size in (128, 384, 0, -256, 8192):
        expected = InputError if size <= 0 else CheckpointError
        with pytest.raises(expected, match=f"(multiples of 256 pixels .* got --image-size|as 256x512, got) {size}"):
            export_checkpoint(CHECKPOINT, tmp_path / "b", ExportOptions(image_size=size))


@pytest.mark.usefixtures("without_openvino")
def test_export__own_masks_take_part_in_the_gate(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for index in range(3):
        save(tmp_path / "masks" / f"{index}.png", disc(100, 30 + index, 50, 50))
    report = export_checkpoint(CHECKPOINT, tmp_path / "b", ExportOptions(masks=tmp_path / "masks"))
    assert report.parity.mask_count == 20


@pytest.mark.usefixtures("without_openvino")
def test_export__a_gate_that_fails_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_another(graph: ByteGraph, inputs: Sequence[TensorSpec]) -> bytes:
        last = cast(SubPixelConv2d, cast(Stage, cast(DeployUnet, graph.unet).ups[0]).layer)
        with torch.no_grad():
            last.conv.weight *= 0.9
        return to_onnx(graph, inputs)

    monkeypatch.setattr(export, "to_onnx", write_another)
    with pytest.raises(ParityError, match="nothing was written"):
        export_checkpoint(CHECKPOINT, tmp_path / "b")
    assert os.listdir(tmp_path) == []
    report = export_checkpoint(CHECKPOINT, tmp_path / "b", ExportOptions(max_level_difference=255))
    assert report.parity.max_level_difference > 1
    assert any("was told to accept differences of up to 255 levels" in w for w in report.warnings)
    assert "Warnings of the export" in (tmp_path / "b" / "MODEL_CARD.md").read_text()


@pytest.mark.usefixtures("without_openvino")
def test_export__a_network_blind_to_masks_is_warned_about(tmp_path: Path, m2l: CommandLine) -> None:
    state = torch.load(CHECKPOINT, weights_only=True)
    state["model.model.3.weight"] *= 0
    torch.save(state, tmp_path / "g.pth")
    outcome = m2l("export", tmp_path / "g.pth", tmp_path / "b")
    assert outcome.code == 0
    assert "warning: a black mask, a white one and a disc give nearly the same picture" in outcome.err
    assert "warning" in m2l("inspect", tmp_path / "b").out


def test_export__a_trained_like_network_is_not_warned_about(exported: Path) -> None:
    manifest = open_bundle(exported).manifest
    with Synthesizer.open(exported) as synth:
        images = synth(np.stack([disc(radius=0.1), disc(radius=64)])).astype(int)
    assert (np.abs(images[0] - images[1]).mean() < 3) == bool(manifest.warnings)


@pytest.mark.usefixtures("without_openvino")
def test_export__existing_bundles(exported: Path, tmp_path: Path, m2l: CommandLine) -> None:
    there = Path(shutil.copytree(exported, tmp_path / "b"))
    outcome = m2l("export", CHECKPOINT, there)
    assert outcome.code == 1
    assert "exists already" in outcome.err
    assert m2l("export", CHECKPOINT, there, "--overwrite", "--name", "new").code == 0
    assert open_bundle(there).manifest.name == "new"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "f").write_text("")
    outcome = m2l("export", CHECKPOINT, tmp_path / "mine", "--overwrite")
    assert outcome.code == 1
    assert "is not a bundle, so it is not overwritten" in outcome.err
    assert sorted(os.listdir(tmp_path)) == ["b", "mine"]


def test_export__the_command_line(tmp_path: Path, m2l: CommandLine) -> None:
    outcome = m2l("export", CHECKPOINT, tmp_path / "new" / "b")
    assert outcome.code == 0
    assert "found a U-Net generator: 8 levels, ngf 2, 3 to 3 channels, norm instance" in outcome.err
    assert "at most" in outcome.out
    assert m2l("verify", tmp_path / "new" / "b").code == 0
    assert m2l("synth", TINY / "masks", tmp_path / "out", "--bundle", tmp_path / "new" / "b").code == 0


@pytest.mark.usefixtures("without_openvino")
def test_export__what_was_made_as_json(tmp_path: Path, m2l: CommandLine) -> None:
    outcome = m2l("export", CHECKPOINT, tmp_path / "b", "--json", "--upsampling", "transposed")
    made = json.loads(outcome.out)
    opened = open_bundle(tmp_path / "b")
    assert (made["path"], made["sha256"]) == (str(tmp_path / "b"), opened.sha256)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert (made["inputs"], made["models"], made["warnings"]) == tuple(
        manifest[name] for name in ("inputs", "models", "warnings")
    )


@pytest.mark.usefixtures("without_openvino")
def test_export__with_a_model_repository_of_triton(tmp_path: Path, m2l: CommandLine) -> None:
    models, bundle = tmp_path / "models", tmp_path / "bundle"
    done = m2l("export", CHECKPOINT, bundle, "--triton", models)
    assert done.code == 0, done.err
    assert f"tritonserver --model-repository {models}" in done.out
    assert (models / "bundle" / "1" / "bundle" / "manifest.json").read_bytes() == (
        bundle / "manifest.json"
    ).read_bytes()
    own = models / "bundle_onnxruntime_fp32" / "1" / "model.onnx"
    assert own.read_bytes() == (bundle / "generator.fp32.onnx").read_bytes()
    refused = m2l("export", CHECKPOINT, tmp_path / "other", "--triton", models)
    assert refused.code == 1
    assert "models exists already" in refused.err
    assert not (tmp_path / "other").exists(), "refused ahead of the export"
    assert m2l("export", CHECKPOINT, tmp_path / "other", "--triton", tmp_path / "other").code == 2


def test_export__help_tells_what_the_exit_status_says(m2l: CommandLine) -> None:
    text = " ".join(m2l("export", "--help").out.split())
    assert "Exit status: 0 the bundle is written, 1 it is not" in text
    assert "resize is for networks trained with --upsample resize alone" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("{tmp}/absent", "{tmp}/b"), 1, "does not exist"),
        (("{tmp}", "{tmp}/b"), 1, "is a folder"),
        ((CHECKPOINT, "{tmp}/file/b"), 1, "cannot write"),
        ((CHECKPOINT, "{tmp}/b", "--masks", "{tmp}/empty"), 1, "holds no mask files"),
        ((CHECKPOINT, "{tmp}/b", "--masks", "{tmp}/absent"), 1, "does not exist"),
        ((CHECKPOINT, "{tmp}/b", "--max-level-difference", "300"), 2, "between 0 and 255, got 300"),
        ((CHECKPOINT, "{tmp}/b", "--norm-statistics", "running"), 1, "tiny_net_G.pth: has no running statistics"),
        ((CHECKPOINT, "{tmp}/b", "--norm-statistics", "other"), 2, "other"),
        ((CHECKPOINT, "{tmp}/b", "--image-size", "100"), 1, "multiples of 256"),
        ((CHECKPOINT, "{tmp}/b", "--upsampling", "resize"), 1, "tiny_net_G.pth: has transposed convolutions"),
        ((CHECKPOINT, "{tmp}/b", "--weights", "int8"), 2, "int8"),
    ],
)
def test_export__bad_input(
    tmp_path: Path, m2l: CommandLine, arguments: tuple[object, ...], code: int, message: str
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    outcome = m2l("export", *(str(a).format(tmp=tmp_path) for a in arguments))
    assert outcome.code == code
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "b").exists()


def test_export__python_errors_are_the_builtin_ones_too(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        export_checkpoint(CHECKPOINT, tmp_path / "b", ExportOptions(max_level_difference=-1))
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputError) as error:
        export_checkpoint(CHECKPOINT, tmp_path / "b")
    assert isinstance(error.value, OSError)


@pytest.mark.slow
def test_export__a_kill_in_mid_export_leaves_the_old_bundle(exported: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(exported, tmp_path / "b"))
    before = open_bundle(there).sha256
    program = "from m2l_runtime.cli.main import main; main()"
    command = [sys.executable, "-c", program, "export", str(CHECKPOINT), str(there)]
    for wait_s in np.random.default_rng(5).uniform(0.5, 4, 20):
        process = subprocess.Popen([*command, "--overwrite"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        open_bundle(there).check()
    export_checkpoint(CHECKPOINT, there, ExportOptions(name="tiny", overwrite=True))
    assert open_bundle(there).sha256 == before
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference checkpoint is not here")
def test_export__the_trained_reference_end_to_end(tmp_path: Path) -> None:
    report = export_checkpoint(REFERENCE / "latest_net_G.pth", tmp_path / "b", ExportOptions(masks=REFERENCE / "masks"))
    assert report.parity.mask_count == 41
    assert report.warnings == ()
    with Synthesizer.open(report.bundle) as synth:
        for masks, images in (("masks", "images_eval"), ("raw_masks", "images_raw_eval")):
            for _, mask, original in oracle(REFERENCE / masks, REFERENCE / images):
                assert_equals_original(synth(mask[None])[0], original)


@pytest.mark.slow
@pytest.mark.parametrize(("levels", "norm"), [(7, "batch"), (9, "instance")])
def test_export__other_depths_at_full_width(tmp_path: Path, levels: int, norm: Norm) -> None:
    torch.manual_seed(1)
    torch.save(UnetGenerator(UnetSpec(levels, 64, 3, 3, norm)).state_dict(), tmp_path / "g.pth")
    report = export_checkpoint(tmp_path / "g.pth", tmp_path / "b")
    assert report.bundle.manifest.image_size == (1 << levels, 1 << levels)
    assert report.parity.max_level_difference <= 1


@pytest.mark.slow
def test_export__the_full_width_passes_the_gate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(UnetGenerator(UnetSpec(8, 64, 3, 3, "instance")).state_dict(), tmp_path / "latest_net_G.pth")
    report = export_checkpoint(tmp_path / "latest_net_G.pth", tmp_path / "b")
    assert report.bundle.manifest.network.parameter_count == 54_409_603
    assert report.parity.max_level_difference <= 1
