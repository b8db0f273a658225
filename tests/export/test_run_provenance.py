"""Runs of training to bundles."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CommandLine
from support import disc
from synthetic_data import data_folder

from m2l_export import ExportOptions, ExportReport, export, export_checkpoint
from m2l_export.graph.deploy import NormStatistics, Upsampling, deploy, flatten
from m2l_runtime import Synthesizer, open_bundle
from m2l_runtime.bundle.schema import Training
from m2l_runtime.errors import CheckpointError
from m2l_runtime.literals import Norm
from m2l_train import TrainConfig, train
from m2l_train.models.networks import UnetGenerator, UnetSpec

pytestmark = pytest.mark.usefixtures("only_onnxruntime")

CONFIG = TrainConfig(image_size=128, ngf=2, ndf=2, n_epochs=1, n_epochs_decay=0)

FORMS: tuple[Upsampling, ...] = ("pixel-shuffle", "transposed", "resize")


@functools.cache
def files_of_run(config: TrainConfig) -> dict[str, bytes]:
    """Train once for each configuration, and hold what the run wrote."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        data = data_folder(Path(folder) / "data", 3, 1)
        train(data, run, config, device="cpu", threads=1, tensorboard=False)
        return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def trained(tmp_path: Path, config: TrainConfig = CONFIG) -> Path:
    for name, content in files_of_run(config).items():
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "run"


@pytest.mark.parametrize("upsample", ["deconv", "resize"])
def test_run_provenance__a_run_becomes_a_bundle_that_computes_as_its_network(tmp_path: Path, upsample: str) -> None:
    run = trained(tmp_path, dataclasses.replace(CONFIG, upsample=upsample))  # type: ignore[arg-type]
    report = export_checkpoint(run, tmp_path / "bundle")
    manifest = report.bundle.manifest
    assert manifest.image_size == (128, 128)
    assert manifest.network.upsample == upsample
    assert manifest.models[0].form == "sub-pixel"
    network = UnetGenerator(UnetSpec(7, 2, 3, 3, "instance", upsample=upsample)).eval()
    network.load_state_dict(torch.load(run / "latest_net_G.pth", weights_only=True))
    mask = disc(128, 40, 60, 70)
    with torch.no_grad():
        y = network(torch.from_numpy(mask).float()[None, None].repeat(1, 3, 1, 1) / 127.5 - 1)[0]
    expected = ((y + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).numpy()
    with Synthesizer.open(tmp_path / "bundle") as synth:
        assert np.abs(synth(mask[None])[0].astype(int) - expected).max() <= 1


def test_run_provenance__the_bundle_says_how_it_was_trained(tmp_path: Path, m2l: CommandLine) -> None:
    run = trained(tmp_path)
    assert m2l("export", run, tmp_path / "bundle").code == 0
    training = open_bundle(tmp_path / "bundle").manifest.provenance.training
    assert training is not None
    progress = json.loads((run / "progress.json").read_text())
    assert training.config == json.loads(json.dumps(dataclasses.asdict(CONFIG)))
    assert (training.step, training.epoch, training.pair_count) == (3, 1, 3)
    assert training.val_l1_levels == progress["val_l1_levels"]
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert "Trained by `m2l train` on 3 pairs for 3 steps (epoch 1 of 1)" in card
    assert "lambda_l1 100.0" in card


def test_run_provenance__weights_that_progress_does_not_know_are_not_given_its_figures(tmp_path: Path) -> None:
    run = trained(tmp_path)
    state = torch.load(run / "latest_net_G.pth", weights_only=True)
    torch.save({k: v * 1.01 for k, v in state.items()}, run / "latest_net_G.pth")
    training = export_checkpoint(run, tmp_path / "bundle").bundle.manifest.provenance.training
    assert training is not None
    assert (training.step, training.val_l1_levels) == (None, None)


@pytest.mark.slow
def test_run_provenance__a_kept_generator_is_given_the_figures_of_its_epoch(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", 3, 1)
    config = dataclasses.replace(CONFIG, n_epochs=2)
    train(data, tmp_path / "run", config, device="cpu", threads=1, tensorboard=False, save_epochs=1)
    run = tmp_path / "run"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (judged,) = [line for line in lines if "val_l1_levels" in line and line["epoch"] == 1]
    found = [_training(export_checkpoint(run / name, tmp_path / name)) for name in ("1_net_G.pth", "latest_net_G.pth")]
    assert (found[0].epoch, found[0].step, found[0].val_l1_levels) == (1, 3, judged["val_l1_levels"])
    assert found[0].pair_count == 3
    assert found[1] == _training(export_checkpoint(run, tmp_path / "b"))
    assert found[1].step == 6
    (run / "metrics.jsonl").unlink()
    untold = _training(export_checkpoint(run / "1_net_G.pth", tmp_path / "c"))
    assert (untold.epoch, untold.step, untold.hours) == (1, None, None)
    assert "epoch 1 of 2" in (tmp_path / "c" / "MODEL_CARD.md").read_text()


def _training(report: ExportReport) -> Training:
    training = report.bundle.manifest.provenance.training
    assert training is not None
    return training


def test_run_provenance__a_file_of_another_network_is_not_of_the_run_around_it(tmp_path: Path) -> None:
    run = trained(tmp_path)
    torch.save(UnetGenerator(UnetSpec(7, 3, 3, 3, "instance")).state_dict(), run / "7_net_G.pth")
    torch.save(torch.load(run / "latest_net_G.pth", weights_only=True), run / "mine.pth")
    for name in ("7_net_G.pth", "mine.pth"):
        manifest = export_checkpoint(run / name, tmp_path / name).bundle.manifest
        assert manifest.provenance.training is None
        assert manifest.image_size == (128, 128)


def test_run_provenance__a_run_without_dropout_has_none_to_let_in(tmp_path: Path, m2l: CommandLine) -> None:
    run = trained(tmp_path, dataclasses.replace(CONFIG, dropout=False))
    for path in (run, run / "latest_net_G.pth"):
        outcome = m2l("export", path, tmp_path / "b", "--stochastic")
        assert outcome.code == 1
        assert f"{path}: was trained without dropout; leave out --stochastic" in outcome.err
    shutil.copy(run / "latest_net_G.pth", tmp_path / "g.pth")
    assert m2l("export", tmp_path / "g.pth", tmp_path / "b", "--stochastic").code == 0, "nothing in a file tells"


def test_run_provenance__a_run_with_appearances_becomes_a_bundle_that_takes_them(tmp_path: Path) -> None:
    run = trained(tmp_path, dataclasses.replace(CONFIG, appearance=True, upsample="resize", ema=0.9))
    report = export_checkpoint(run, tmp_path / "bundle", ExportOptions(stochastic=True, weights="fp16"))
    assert report.parity.max_level_difference <= 1
    state = torch.load(run / "latest_net_G.pth", weights_only=True)
    with Synthesizer.open(report.bundle) as synth:
        np.testing.assert_array_equal(synth.bundle.read_appearances(), state["appearance.table"].numpy())
        assert synth(disc(128)[None], seeds=[3]).std() > 0
    assert "appearance True" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()


def test_run_provenance__runs_that_cannot_be_exported(tmp_path: Path) -> None:
    run = trained(tmp_path)
    torch.save(UnetGenerator(UnetSpec(7, 4, 3, 3, "instance")).state_dict(), run / "latest_net_G.pth")
    with pytest.raises(CheckpointError, match=r"levels, ngf, norm, upsampling and appearance \(7, 4, "):
        export_checkpoint(run, tmp_path / "bundle")
    (run / "latest_net_G.pth").unlink()
    with pytest.raises(CheckpointError, match=r"latest_net_G\.pth: does not exist"):
        export_checkpoint(run, tmp_path / "bundle")
    shutil.rmtree(run / "grids")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("norm", "statistics"),
    [("instance", "instance"), ("batch", "instance"), ("batch", "running"), ("none", "instance")],
)
def test_run_provenance__the_deploy_graph_of_a_generator_that_resizes(norm: Norm, statistics: NormStatistics) -> None:
    torch.manual_seed(1)
    network = UnetGenerator(UnetSpec(6, 2, 3, 3, norm, upsample="resize")).double()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(0.3 if "running_mean" in name else 0.0, 0.3)
    x = (torch.rand(1, 1, 64, 64, dtype=torch.float64) * 2 - 1).repeat(1, 3, 1, 1)
    network.eval()
    if statistics == "instance" and norm == "batch":
        network.train()  # a batch of one
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
    with torch.no_grad():
        expected = network(x)
        for upsampling in FORMS:
            deployed = deploy(network, statistics, upsampling)
            assert deployed.upsampling == upsampling
            torch.testing.assert_close(deployed.graph.unet(x[:, :1]), expected, atol=1e-9, rtol=0)
        if statistics == "running" or norm != "batch":
            torch.testing.assert_close(flatten(network)(x), expected, atol=1e-9, rtol=0)


def test_export__a_network_of_a_few_steps_is_warned_of_and_inspect_tells_them(
    tmp_path: Path, m2l: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path)
    outcome = m2l("export", run, tmp_path / "bundle")
    assert "warning: the network was trained for 3 steps alone" in outcome.err
    assert open_bundle(tmp_path / "bundle").manifest.warnings[0].startswith("the network was trained for 3 steps")
    text = " ".join(m2l("inspect", tmp_path / "bundle").out.split())
    assert "trained for 3 steps, epoch 1, 3 pairs" in text
    monkeypatch.setattr(export, "FEW_STEPS", 3)
    assert "was trained for" not in m2l("export", run, tmp_path / "other").err
