"""Runs: what they leave, how they go on, and what stops them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine
from PIL import Image
from preloaded import M2L, PreloadedProcess
from support import TINY, slow
from synthetic_data import data_folder

from m2l_runtime.errors import DeviceUnavailable, Diverged, InputError, OutOfMemory, OutputError
from m2l_train import TrainConfig, TrainReport, train
from m2l_train.config_file import from_json, to_json
from m2l_train.models import losses
from m2l_train.models.networks import UnetGenerator, UnetSpec
from m2l_train.models.pix2pix import Pix2Pix
from m2l_train.training.run_folder import RunFolder

CONFIG = TrainConfig(image_size=128, ngf=2, ndf=2, n_epochs=2, n_epochs_decay=1)
OPTIONS = ("--image-size", 128, "--ngf", 2, "--ndf", 2, "--n-epochs", 2, "--n-epochs-decay", 1, "--threads", 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return data_folder(tmp_path / "data", 5, 2)


def go(data: Path, run: Path, config: TrainConfig | None = CONFIG, **options: Any) -> TrainReport:
    settings: dict[str, Any] = {"threads": 1, "tensorboard": False, "device": "cpu"} | options
    return train(data, run, config, **settings)


def state(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "state.pt", weights_only=True)
    return found


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of a nested state by its path."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, inner in enumerate(value) for k, v in flat(inner, f"{name}/{i}").items()}
    return {name: value}


def assert_same_bits(one: Path, other: Path) -> None:
    ours, theirs = flat(state(one)), flat(state(other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if name == "/seconds":
            continue
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, theirs[name]), name
        else:
            assert value == theirs[name], name


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_trainer__a_run_leaves_what_it_promises(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    report = go(data, run, tensorboard=True)
    assert (report.step, report.epoch, report.is_complete, report.was_complete) == (15, 3, True, False)
    assert from_json((run / "config.json").read_bytes(), "config") == CONFIG
    steps = [row for row in metrics(run) if "G_L1" in row]
    assert [row["step"] for row in steps] == list(range(1, 16))
    assert [row["lr"] for row in steps] == [2e-4] * 10 + [1e-4] * 5
    assert {"G_GAN", "G_L1", "D_real", "D_fake", "images_per_s"} <= set(steps[0])
    epochs = [row for row in metrics(run) if "val_l1_levels" in row]
    assert [row["step"] for row in epochs] == [5, 10, 15]
    assert epochs[-1]["val_l1_levels"] == report.val_l1_levels
    progress = json.loads((run / "progress.json").read_text())
    assert (progress["step"], progress["is_complete"], progress["pair_count"]) == (15, True, 5)
    for value in flat(state(run)).values():
        assert isinstance(value, (torch.Tensor, int, float, str, bool, type(None)))


def test_trainer__the_networks_are_in_the_originals_layout(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(ngf=2, ndf=2, n_epochs=1, n_epochs_decay=0)
    go(data, tmp_path / "run", config, max_steps=1)
    generator = torch.load(tmp_path / "run" / "latest_net_G.pth", weights_only=True)
    theirs = torch.load(TINY / "tiny_net_G.pth", weights_only=True)
    assert [(k, v.shape) for k, v in generator.items()] == [(k, v.shape) for k, v in theirs.items()]
    discriminator = torch.load(tmp_path / "run" / "latest_net_D.pth", weights_only=True)
    with np.load(TINY / "train_steps.npz") as found:
        keys = {k.removeprefix("init/D/"): found[k].shape for k in found.files if k.startswith("init/D/")}
    assert {k: tuple(v.shape) for k, v in discriminator.items()} == keys


def test_trainer__the_grid_shows_mask_synthesized_and_real(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(data, run)
    assert sorted(p.name for p in (run / "grids").iterdir()) == [f"epoch_{n:04}.png" for n in (1, 2, 3)]
    grid = np.array(Image.open(run / "grids" / "epoch_0003.png"))
    network = UnetGenerator(UnetSpec(7, 2, 3, 3, "instance")).eval()
    network.load_state_dict(torch.load(run / "latest_net_G.pth", weights_only=True))
    for row, name in enumerate(("p100.png", "p101.png")):
        cells = [grid[row * 132 : row * 132 + 128, column * 132 : column * 132 + 128] for column in range(3)]
        mask, real = (
            np.array(Image.open(data / "val" / kind / name).resize((128, 128), Image.Resampling.BICUBIC))
            for kind in ("masks", "images")
        )
        np.testing.assert_array_equal(cells[0], np.repeat(mask[:, :, None], 3, 2))
        np.testing.assert_array_equal(cells[2], real)
        x = torch.from_numpy(mask).float()[None, None].repeat(1, 3, 1, 1) / 127.5 - 1
        with torch.no_grad():
            y = ((network(x)[0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        assert np.abs(cells[1].astype(int) - y).max() <= 1


def test_trainer__tensorboard_reads_the_events(data: Path, tmp_path: Path) -> None:
    go(data, tmp_path / "run", tensorboard=True)
    program = (
        "import sys, json; from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "events = EventAccumulator(sys.argv[1]); events.Reload()\n"
        "print(json.dumps([[e.step, e.value] for e in events.Scalars('epoch/val_l1_levels')]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run" / "events")]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    expected = [(r["step"], r["val_l1_levels"]) for r in metrics(tmp_path / "run") if "val_l1_levels" in r]
    assert [(step, pytest.approx(value, rel=1e-5)) for step, value in found] == expected


@pytest.mark.parametrize(
    ("stops", "changes"),
    [
        ([1, 2, 9, 10, 14], {}),
        slow([4], {"batch_size": 2, "norm": "batch"}),
        slow([4], {}),
        slow([5], {}),
        slow([5], {"batch_size": 2, "norm": "batch"}),
        slow([1, 2, 9, 10, 14], {"batch_size": 2, "norm": "batch"}),
    ],
)
def test_trainer__stopping_and_going_on_gives_the_same_bits(
    data: Path, tmp_path: Path, stops: list[int], changes: dict[str, Any]
) -> None:
    config = replace(CONFIG, **changes)
    go(data, tmp_path / "whole", config)
    for stop in stops:
        go(data, tmp_path / "parts", None if stop != stops[0] else config, max_steps=stop, resume=stop != stops[0])
    report = go(data, tmp_path / "parts", None, resume=True)
    assert report.is_complete
    assert_same_bits(tmp_path / "parts", tmp_path / "whole")
    assert (tmp_path / "parts" / "latest_net_G.pth").read_bytes() == (
        tmp_path / "whole" / "latest_net_G.pth"
    ).read_bytes()
    without_speed = [
        [{k: v for k, v in row.items() if k not in ("images_per_s", "hours")} for row in metrics(tmp_path / run)]
        for run in ("parts", "whole")
    ]
    assert without_speed[0] == without_speed[1]


def test_trainer__another_seed_gives_another_run(data: Path, tmp_path: Path) -> None:
    go(data, tmp_path / "one", max_steps=2)
    go(data, tmp_path / "two", replace(CONFIG, seed=1), max_steps=2)
    assert not torch.equal(state(tmp_path / "one")["rng_cpu"], state(tmp_path / "two")["rng_cpu"])


@pytest.mark.slow
def test_trainer__it_learns(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", 8, 2)
    config = TrainConfig(image_size=128, ngf=8, ndf=2, n_epochs=10, n_epochs_decay=0, lr=2e-3)
    go(data, tmp_path / "run", config)
    levels = [row["val_l1_levels"] for row in metrics(tmp_path / "run") if "val_l1_levels" in row]
    assert levels[-1] < 0.4 * levels[0]
    grid = np.array(Image.open(tmp_path / "run" / "grids" / "epoch_0010.png")).astype(int)
    mask, made = grid[:128, :128, 0] > 127, grid[:128, 132:260]
    assert made[~mask].mean() - made[mask].mean() > 60, "the lesion is dark and where the mask is"


def start(data: Path, run: Path, *more: object) -> PreloadedProcess:
    return PreloadedProcess(M2L, "train", data, run, *OPTIONS, "--no-tensorboard", *more)


def wait_until(ready: Callable[[], bool]) -> None:
    for _ in range(6000):
        if ready():
            return
        time.sleep(0.01)
    raise AssertionError("nothing came of it in a minute")


@pytest.mark.parametrize("pauses", [(0.02,), slow((0.0, 0.02, 0.05))])
def test_trainer__kills_never_lose_the_state_before(data: Path, tmp_path: Path, pauses: tuple[float, ...]) -> None:
    run = tmp_path / "run"
    go(data, tmp_path / "whole")
    reached = 0
    for pause in pauses:
        process = start(data, run, "--save-minutes", 0, *(["--resume"] if reached else []))
        wait_until(lambda before=reached: (run / "progress.json").exists() and state(run)["step"] > before)  # type: ignore[misc]
        time.sleep(pause)  # somewhere in the next step or save
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert state(run)["step"] > reached
        reached = state(run)["step"]
    assert start(data, run, "--resume").wait() == 0
    assert_same_bits(run, tmp_path / "whole")
    assert [row["step"] for row in metrics(run) if "G_L1" in row] == list(range(1, 16))
    assert not list(run.glob("*.partial"))


@pytest.mark.parametrize("number", [slow(signal.SIGINT), signal.SIGTERM])
def test_trainer__signals_save(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    process = start(data, run, "--n-epochs", 300)
    wait_until(lambda: (run / "progress.json").exists())
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert state(run)["step"] == metrics(run)[-1]["step"] >= 5


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting takes root")
def test_trainer__a_full_disk_keeps_the_state_before(data: Path, tmp_path: Path) -> None:
    go(data, tmp_path / "whole")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        run = disk / "run"
        go(data, run, max_steps=3)
        before = state(run)
        used = sum(p.stat().st_size for p in run.rglob("*") if p.is_file())
        (disk / "other").write_bytes(bytes(50 * 2**20 - used - 400_000))
        with pytest.raises(OutputError, match=r"cannot write .*state\.pt: No space left on device"):
            go(data, run, None, resume=True)
        assert state(run)["step"] == before["step"] == 3
        assert not list(run.glob("*.partial"))
        (disk / "other").unlink()
        go(data, run, None, resume=True)
        assert_same_bits(run, tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def diverge_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    gan_loss = losses.gan_loss

    def broken(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gan_loss(*arguments) * (float("nan") if calls > 3 * (step - 1) else 1.0)

    monkeypatch.setattr(losses, "gan_loss", broken)


def test_trainer__a_loss_that_is_not_finite_stops_and_keeps_the_last_state(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, m2l: CommandLine
) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=6)
    before = (run / "state.pt").read_bytes()
    diverge_at(3, monkeypatch)
    message = r"step 9 \(epoch 2\) gave D_fake nan, D_real nan on p00\d\.png; the state of the last save is kept"
    with pytest.raises(Diverged, match=message):
        go(data, run, None, resume=True)
    assert (run / "state.pt").read_bytes() == before
    assert metrics(run)[-1]["step"] == 8
    outcome = m2l("train", data, run, "--resume")
    assert outcome.code == 1
    assert "m2l: error: step 7" in outcome.err
    assert "Traceback" not in outcome.err


def test_train__a_run_that_saved_nothing_blocks_none(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        diverge_at(1, patch)
        with pytest.raises(Diverged):
            go(data, run)
    assert (run / "config.json").exists()
    assert go(data, run, replace(CONFIG, lr=1e-4), max_steps=1).step == 1
    assert RunFolder(run).read_config().lr == 1e-4
    with pytest.raises(OutputError, match="holds a run"):
        go(data, run)


def test_trainer__weights_that_are_not_finite_are_never_saved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=3)
    before = (run / "state.pt").read_bytes()
    step = Pix2Pix.step

    def spoil(networks: Pix2Pix, masks: Any, images: Any) -> Any:
        found = step(networks, masks, images)  # finite losses, and an update that is not
        with torch.no_grad():
            next(networks.generator.parameters())[0, 0, 0, 0] = float("inf")
        return found

    monkeypatch.setattr(Pix2Pix, "step", spoil)
    with pytest.raises(Diverged, match="weights are not finite after step 4"):
        go(data, run, None, resume=True, max_steps=4)
    assert (run / "state.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("batch_size", "advice"), [(4, "a batch of 2 may fit: --batch-size 2"), (1, "--ngf 1 --ndf 1")]
)
def test_trainer__too_little_memory_says_what_may_fit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, advice: str
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(Pix2Pix, "step", full)
    with pytest.raises(OutOfMemory, match=f"too little memory for a batch of {batch_size} at 128 pixels.*{advice}"):
        go(data, tmp_path / "run", replace(CONFIG, batch_size=batch_size))


def test_trainer__a_corrupt_picture_stops_or_is_left_out(data: Path, tmp_path: Path, m2l: CommandLine) -> None:
    (data / "train" / "images" / "p003.png").write_bytes(b"no")
    run = tmp_path / "run"
    with pytest.raises(InputError, match=r"p003\.png: is not a PNG"):
        go(data, run)
    reached = state(run)["step"]
    assert 0 <= reached < 5
    report = go(data, run, None, resume=True, skip_bad=True)
    assert report.is_complete
    assert len(report.skipped) == 3
    outcome = m2l("train", data, tmp_path / "other", *OPTIONS, "--skip-bad", "--max-steps", 4, "--no-tensorboard")
    assert outcome.code in (0, 3)
    (data / "train" / "images" / "p003.png").unlink()
    with pytest.raises(InputError, match="1 mask without a photograph"):
        go(data, run, None, resume=True)


def test_trainer__a_run_that_is_there_is_left_alone(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=1)
    before = (run / "state.pt").read_bytes()
    with pytest.raises(OutputError, match="holds a run; --resume goes on with it, --overwrite begins anew"):
        go(data, run)
    with pytest.raises(InputError, match=r"was begun with ngf 2 \(now 4\); leave that out"):
        go(data, run, replace(CONFIG, ngf=4), resume=True)
    assert (run / "state.pt").read_bytes() == before
    (run / "notes.txt").write_text("mine")
    go(data, run, replace(CONFIG, ngf=4), overwrite=True, max_steps=1)
    assert (run / "notes.txt").read_text() == "mine"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("mine")
    with pytest.raises(OutputError, match="is there and is no run"):
        go(data, tmp_path / "thesis", overwrite=True)
    with pytest.raises(InputError, match="holds no run to resume"):
        go(data, tmp_path / "absent", None, resume=True)


def test_trainer__a_run_folder_that_is_removed_is_an_error(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def remove(_: object) -> None:
        shutil.rmtree(run, ignore_errors=True)

    with pytest.raises(OutputError, match="cannot write"):
        go(data, run, on_step=remove)
    assert not run.exists()


def test_trainer__data_that_cannot_be_trained_on_leaves_no_run_behind(data: Path, tmp_path: Path) -> None:
    for path in (data / "val" / "images").iterdir():
        path.write_bytes(b"no")
    with pytest.raises(InputError, match="no pair to validate on can be read"):
        go(data, tmp_path / "run")
    data_folder(data, 5, 2)
    assert go(data, tmp_path / "run", max_steps=1).step == 1


def test_trainer__a_run_that_is_done_says_so(data: Path, tmp_path: Path, m2l: CommandLine) -> None:
    run = tmp_path / "run"
    go(data, run)
    before = (run / "state.pt").read_bytes()
    assert go(data, run, None, resume=True).was_complete
    outcome = m2l("train", data, run, "--resume")
    assert outcome.code == 0
    assert "has had all of its 3 epochs already" in outcome.out
    assert (run / "state.pt").read_bytes() == before


def test_trainer__states_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    go(data, tmp_path / "one", max_steps=1)
    go(data, tmp_path / "two", replace(CONFIG, ngf=4), max_steps=1)
    altered = state(tmp_path / "one") | {"G": state(tmp_path / "two")["G"]}
    torch.save(altered, tmp_path / "one" / "state.pt")
    with pytest.raises(InputError, match="is of another architecture than its config.json: .*size mismatch"):
        go(data, tmp_path / "one", None, resume=True)
    for content, message in ((b"PK damaged", "is damaged, or no state"), (b"", "is damaged, or no state")):
        (tmp_path / "one" / "state.pt").write_bytes(content)
        with pytest.raises(InputError, match=message):
            go(data, tmp_path / "one", None, resume=True)
    torch.save({"format": 99}, tmp_path / "one" / "state.pt")
    with pytest.raises(InputError, match="is not a state of format 1"):
        go(data, tmp_path / "one", None, resume=True)
    other = data_folder(tmp_path / "other", 6)
    with pytest.raises(InputError, match="was trained on other pairs"):
        go(other, tmp_path / "two", None, resume=True)
    for content in (b"{}", b"no", b'{"format": 1, "ngf": "x"}', b'{"format": 1, "depth": 3}'):
        (tmp_path / "two" / "config.json").write_bytes(content)
        with pytest.raises(InputError, match=r"config\.json is damaged or of another version of m2l"):
            go(data, tmp_path / "two", None, resume=True)


def test_trainer__a_256_store_is_warned_about(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", 3, 1, side=256)
    notes: list[str] = []
    config = TrainConfig(ngf=1, ndf=1, n_epochs=1, n_epochs_decay=0)
    report = go(data, tmp_path / "run", config, max_steps=1, on_note=notes.append)
    assert "are 256x256 pixels and are wanted at 286x286" in report.warnings[0]
    assert f"warning: {report.warnings[0]}" in notes


def test_trainer__every_setting_is_an_option_and_wrong_ones_are_refused(
    data: Path, tmp_path: Path, m2l: CommandLine
) -> None:
    text = " ".join(m2l("train", "--help").out.split())
    for field in fields(TrainConfig):
        assert f"--{field.metadata['flag'] or field.name.replace('_', '-')}" in text
    for arguments, message in (
        (("--image-size", 100), "image_size must be multiples of 32 pixels from 64 to 1024 with the generator unet"),
        (("--norm", "layer"), "norm must be one of instance, batch, none, got 'layer'"),
        (("--lr", 0), "lr must be in (0, 1]"),
        (("--batch-size", 0), "batch_size must be between 1 and 2147483648, got 0"),
        (("--load-size", 100), "load_size must be between image_size (256)"),
        (("--device", "tpu"), "choose auto, cpu, cuda or cuda:N"),
        (("--max-steps", 0), "max_steps must be between 1 and 1000000000, got 0"),
    ):
        outcome = m2l("train", data, tmp_path / "run", *arguments)
        assert outcome.code == 2
        assert message in outcome.err
    assert m2l("train", data, tmp_path / "run", "--preset", "best").code == 2
    if not torch.cuda.is_available():
        with pytest.raises(DeviceUnavailable, match="PyTorch finds no CUDA device here"):
            go(data, tmp_path / "run", device="cuda")


def test_trainer__the_learning_rate_falls_in_a_straight_line_and_never_to_zero() -> None:
    config = TrainConfig()
    rates = [config.learning_rate(epoch) / 2e-4 for epoch in range(1, 201)]
    assert rates[:100] == [1.0] * 100
    np.testing.assert_allclose(rates[100:], np.arange(100, 0, -1) / 101)
    assert (config.crop_from, TrainConfig(image_size=128).crop_from, TrainConfig(image_size=512).crop_from) == (
        (286, 286),
        (143, 143),
        (572, 572),
    )
    assert from_json(to_json(config), "x") == config


@pytest.mark.parametrize(
    "changes",
    [
        {"gan_mode": "lsgan"},
        {"upsample": "resize"},
        {"norm": "none"},
        {"flip": False},
        {"discriminators": 2, "detail": True, "l1_cell": 8},
        {"load_size": 128, "mirror": 8},
        {"load_size": 128, "mirror": 8, "decode_once": True},
    ],
)
def test_trainer__other_settings_train(data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    report = go(data, tmp_path / "run", replace(CONFIG, **changes), max_steps=2)
    assert report.step == 2


def test_train_command__accepts_former_options(tmp_path: Path, data: Path, m2l: CommandLine) -> None:
    old = ("--turn", "--mirror", 8, "--l1-cell=4", "--discriminators", 2)
    outcome = m2l("train", data, tmp_path / "run", *OPTIONS, *old, "--max-steps", 1, "--no-tensorboard")
    assert outcome.code == 0
    for former, new in (
        ("--turn", "--rotate90"),
        ("--mirror", "--reflect-pad"),
        ("--l1-cell", "--l1-pool"),
        ("--discriminators", "--num-discriminators"),
    ):
        assert f"note: {former} is now {new}\n" in outcome.err
    config = from_json((tmp_path / "run" / "config.json").read_bytes(), "config.json")
    assert (config.turn, config.mirror, config.l1_cell, config.discriminators) == (True, 8, 4, 2)
    help_text = m2l("train", "--help").out
    assert "--rotate90" in help_text
    assert "--turn" not in help_text
