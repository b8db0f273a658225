"""Runs that are killed, robbed of their data, or begun twice: what is kept, and what is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine
from PIL import Image
from preloaded import PreloadedProcess
from support import disc, slow
from synthetic_data import data_folder, photograph

from m2l_runtime.errors import InputError, OutOfMemory, OutputError
from m2l_train import TrainConfig, TrainReport, train
from m2l_train.data import batches
from m2l_train.data.data_folder import open_data
from m2l_train.models.pix2pix import Pix2Pix
from m2l_train.training import metrics_log, trainer
from m2l_train.training.metrics_log import MetricsLog
from m2l_train.training.run_folder import RunFolder
from m2l_train.training.validation import Validation

CONFIG = TrainConfig(image_size=128, ngf=2, ndf=2, n_epochs=1, n_epochs_decay=1)
OPTIONS = ("--image-size", 128, "--ngf", 2, "--ndf", 2, "--n-epochs", 1, "--n-epochs-decay", 1, "--threads", 1)

KILLER = """
import os, signal, sys
kill_at, real, count = int(sys.argv[1]), os.replace, 0
def replace(source, target, **options):
    global count
    count += 1
    if count == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(source, target, **options)
os.replace = replace
sys.argv[1:] = sys.argv[2:]
from m2l_runtime.cli.main import main
main()
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return data_folder(tmp_path / "data", 3, 1)


def go(data: Path, run: Path, config: TrainConfig | None = CONFIG, **options: Any) -> TrainReport:
    settings: dict[str, Any] = {"threads": 1, "workers": 2, "tensorboard": False, "device": "cpu"} | options
    return train(data, run, config, **settings)


def state(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "state.pt", weights_only=True)
    return found


def alter(run: Path, **changes: Any) -> None:
    torch.save(state(run) | changes, run / "state.pt")


def content(run: Path) -> dict[str, bytes]:
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("images_per_s", "hours")} for row in found]


def test_stop_and_resume__data_that_disappears_ends_no_epoch(data: Path, tmp_path: Path, m2l: CommandLine) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=3)
    for path in (data / "train" / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the 3 pairs can be read in epoch 2.*p00\d\.png: is empty"):
        go(data, run, None, resume=True, skip_bad=True)
    assert (state(run)["step"], state(run)["epoch"], state(run)["position"]) == (3, 2, -1)
    outcome = m2l("train", data, run, "--resume", "--skip-bad", "--no-tensorboard")
    assert outcome.code == 1
    assert "none of the 3 pairs can be read" in outcome.err
    data_folder(data, 3, 1)
    assert go(data, run, None, resume=True, skip_bad=True).step == 6


def test_stop_and_resume__a_vanished_picture_may_be_left_out_but_not_its_folder(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def lose_one(_: object) -> None:
        (data / "train" / "images" / "p001.png").unlink(missing_ok=True)

    report = go(data, run, on_step=lose_one, skip_bad=True)
    assert any(r"p001.png: cannot be read: No such file" in problem for problem in report.skipped)
    data_folder(data, 40, 1)

    def lose_all(_: object) -> None:
        shutil.rmtree(data, ignore_errors=True)

    with pytest.raises(InputError, match=r"train/images: the folder is gone"):
        go(data, tmp_path / "other", on_step=lose_all, skip_bad=True)
    assert state(tmp_path / "other")["epoch"] == 1


def test_stop_and_resume__a_run_that_another_has_ended_meanwhile_is_left_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def slow(folder: Any) -> Any:
        monkeypatch.setattr(trainer, "open_data", open_data)
        go(data, run, max_steps=1)
        return open_data(folder)

    monkeypatch.setattr(trainer, "open_data", slow)
    with pytest.raises(OutputError, match="holds a run"):
        go(data, run)
    assert state(run)["step"] == 1


def without_what_varies(run: Path) -> dict[str, bytes]:
    found = {n: c for n, c in content(run).items() if n not in ("state.pt", "metrics.jsonl", ".m2l-lock")}
    progress = json.loads(found.pop("progress.json"))
    progress.pop("hours")
    return found | {"progress": json.dumps(progress).encode()}


# Of one epoch's end, renames are: grid, 1_net_G.pth, state.pt, latest_net_G.pth, latest_net_D.pth, progress.json.
@pytest.mark.parametrize("kill_at", [slow(4), 5, slow(11)])
def test_stop_and_resume__a_kill_between_the_files_of_a_save_leaves_nothing_behind_or_undone(
    data: Path, tmp_path: Path, kill_at: int
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    go(data, whole, save_epochs=1)
    more = (*OPTIONS, "--save-epochs", 1, "--no-tensorboard")
    assert PreloadedProcess(KILLER, kill_at, "train", data, run, *more).wait() == -signal.SIGKILL
    assert list(run.rglob(".m2l-train-*.partial"))
    go(data, run, None, resume=True, save_epochs=1)
    assert without_what_varies(run) == without_what_varies(whole)
    assert rows(run) == rows(whole)
    assert not list(run.rglob("*.partial"))


def test_stop_and_resume__temporary_files_of_every_kind_are_swept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(data, tmp_path / "run", max_steps=1)
    seen: list[str] = []
    rename = os.replace

    def watch(source: Any, target: Any, **options: Any) -> None:
        seen.append(Path(source).name)
        rename(source, target, **options)

    monkeypatch.setattr(os, "replace", watch)
    go(data, tmp_path / "other", save_epochs=1)
    assert len(seen) == 2 + 2 * 6  # config.json and data.json, and of each epoch what is named above
    assert all(name.startswith(".m2l-train-") for name in seen)


def test_stop_and_resume__overwriting_removes_what_a_run_wrote_and_no_more(data: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    (foreign / "grids").mkdir(parents=True)
    (foreign / "config.json").write_text('{"format": 1, "model": "bert"}')
    (foreign / "best_net_G.pth").write_text("mine")
    (foreign / "grids" / "mine.png").write_text("mine")
    before = content(foreign)
    with pytest.raises(OutputError, match="is there and is no run"):
        go(data, foreign, overwrite=True)
    assert content(foreign) == before
    run = tmp_path / "run"
    go(data, run, save_epochs=1, tensorboard=True)
    mine = ("best_net_G.pth", "grids/mine.png", "events/mine.txt")
    for name in mine:
        (run / name).write_text("mine")
    old = set(content(run)) - {*mine}
    go(data, run, replace(CONFIG, ngf=4), overwrite=True, max_steps=1, tensorboard=True)
    assert all((run / name).read_text() == "mine" for name in mine)
    assert not {n for n in content(run) if n in old and n.startswith(("grids/", "1_", "2_"))}


def test_stop_and_resume__a_kill_while_overwriting_leaves_a_folder_that_can_be_overwritten(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    go(data, run)
    (run / "notes.txt").write_text("mine")
    unlink = os.unlink

    def die(path: Any, **options: Any) -> None:
        if Path(path).suffix == ".pth":
            raise KeyboardInterrupt
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", die)
    with pytest.raises(KeyboardInterrupt):
        go(data, run, overwrite=True)
    monkeypatch.undo()
    assert RunFolder(run).is_run()
    with pytest.raises(InputError, match=r"state\.pt is gone, but progress\.json is there|latest_net_G\.pth is there"):
        go(data, run, None, resume=True)
    assert go(data, run, overwrite=True, max_steps=1).step == 1


@pytest.mark.parametrize("left", ["progress.json", "latest_net_G.pth"])
def test_stop_and_resume__a_state_that_is_gone_is_not_begun_anew_in_silence(
    data: Path, tmp_path: Path, left: str
) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=1)
    for name in ("state.pt", "progress.json", "latest_net_G.pth", "latest_net_D.pth"):
        if name != left:
            (run / name).unlink()
    with pytest.raises(InputError, match=f"is gone, but {left} is there.*bring the file back"):
        go(data, run, None, resume=True)


def test_stop_and_resume__an_edited_config_is_noticed(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=1)
    config = json.loads((run / "config.json").read_text()) | {"lr": 0.01, "seed": 5}
    (run / "config.json").write_text(json.dumps(config))
    message = r"was trained with lr 0\.0002 \(config\.json says 0\.01\), seed 0 \(config\.json says 5\)"
    with pytest.raises(InputError, match=message):
        go(data, run, None, resume=True)


def test_stop_and_resume__damaged_states_are_refused(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=1)
    whole = state(run)
    for key in ("config", "data", "epoch", "position", "step", "seconds", "val_l1", "G", "optimizer_D", "rng_cpu"):
        torch.save({k: v for k, v in whole.items() if k != key}, run / "state.pt")
        with pytest.raises(InputError, match=f"state.pt is damaged: it has no '{key}'"):
            go(data, run, None, resume=True)
    for key, value in (
        ("config", 1),
        ("epoch", float("nan")),
        ("epoch", 4),
        ("epoch", True),
        ("position", -2),
        ("position", 3),
        ("step", "1"),
        ("seconds", float("inf")),
        ("val_l1", "x"),
        ("G", None),
        ("rng_cpu", [1]),
    ):
        torch.save(whole | {key: value}, run / "state.pt")
        with pytest.raises(InputError, match=f"state.pt is damaged: its '{key}' must be"):
            go(data, run, None, resume=True)
    nested: dict[str, Any] = {"G": {"a": 1}, "optimizer_G": {"state": None, "param_groups": 3}, "optimizer_D": {}}
    for key, value in nested.items():
        torch.save(whole | {key: value}, run / "state.pt")
        with pytest.raises(InputError, match=r"is of another architecture than its config\.json: ."):
            go(data, run, None, resume=True)
    moments = whole["optimizer_G"]["state"]
    moments[0]["exp_avg"] = torch.zeros(1, 2)
    torch.save(whole, run / "state.pt")
    with pytest.raises(InputError, match="size mismatch for 'exp_avg' of an optimizer"):
        go(data, run, None, resume=True)
    (run / "state.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"it is empty \(0 bytes\)"):
        go(data, run, None, resume=True)
    (run / "config.json").write_bytes(b"[" * 100_000)
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        go(data, run, None, resume=True)


def test_stop_and_resume__damaged_metrics_do_no_harm(tmp_path: Path) -> None:
    damaged = ['{"step":"x"}', '{"step":null}', "[1]", "[" * 100_000, '{"step":2,"epoch":null,"val_l1_levels":1}']
    late = ['{"step":3,"epoch":2,"val_l1_levels":1}', '{"step":4,"epoch":3}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*damaged, *late, ""]))
    MetricsLog(tmp_path, 3, 2, tensorboard=False).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == damaged


def test_stop_and_resume__the_line_of_an_epoch_comes_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, run = RunFolder.save, tmp_path / "run"

    def die_at_the_end(folder: RunFolder, state: Any, *arguments: Any, **options: Any) -> None:
        if state["position"] < 0:
            raise KeyboardInterrupt
        save(folder, state, *arguments, **options)

    monkeypatch.setattr(RunFolder, "save", die_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        go(data, run, save_minutes=0)
    assert "val_l1_levels" in rows(run)[-1]
    assert (state(run)["step"], state(run)["epoch"]) == (3, 1)
    monkeypatch.undo()
    go(data, run, None, resume=True)
    go(data, tmp_path / "whole")
    assert rows(run) == rows(tmp_path / "whole")


def test_stop_and_resume__data_and_run_lie_apart(data: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(data)
    before = content(tmp_path)
    for run in (data / "run", data / "train" / "run", tmp_path / "link" / "run"):
        with pytest.raises(InputError, match="lie one in the other"):
            go(data, run)
    assert content(tmp_path) == before
    go(data, tmp_path / "run", max_steps=1)
    shutil.move(data, tmp_path / "run" / "data")
    with pytest.raises(InputError, match="lie one in the other"):
        go(tmp_path / "run" / "data", tmp_path / "run", None, resume=True)


def test_stop_and_resume__a_bad_pair_to_validate_on_is_an_error_too(tmp_path: Path, m2l: CommandLine) -> None:
    data, run = data_folder(tmp_path / "data", 3, 2), tmp_path / "run"
    (data / "val" / "images" / "p101.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"p101\.png: is not a PNG.*\(a pair to validate on\); --skip-bad leaves"):
        go(data, run)
    assert not (run / "config.json").exists()
    outcome = m2l("train", data, run, *OPTIONS, "--skip-bad", "--max-steps", 1, "--no-tensorboard")
    assert outcome.code == 3
    assert "p101.png: is not a PNG" in outcome.err


def test_train__stopped_before_its_first_step_can_be_resumed(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    report = go(data, run, should_stop=lambda: True)
    assert (report.step, report.was_stopped) == (0, True)
    assert (state(run)["step"], state(run)["epoch"], state(run)["position"]) == (0, 1, -1)
    go(data, run, None, resume=True)
    go(data, tmp_path / "whole")
    weights = [torch.load(path / "latest_net_G.pth", weights_only=True) for path in (run, tmp_path / "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("limit", [{"max_steps": 3}, slow({"max_steps": 2}), slow({"max_minutes": 0})])
def test_train__a_limit_that_is_reached_already_takes_no_step(
    data: Path, tmp_path: Path, m2l: CommandLine, limit: dict[str, int]
) -> None:
    run, (name, value) = tmp_path / "run", next(iter(limit.items()))
    for step in (3, 5):  # after an epoch, and within one
        go(data, run, None if step == 5 else CONFIG, resume=step == 5, max_steps=step)
        weights = (run / "latest_net_G.pth").read_bytes()
        outcome = m2l("train", data, run, "--resume", f"--{name.replace('_', '-')}", value, "--no-tensorboard")
        assert outcome.code == 0, outcome.err
        assert f"{step} steps, epoch 2 of 2" in outcome.out
        assert "no step in this call" in outcome.out
        assert (run / "latest_net_G.pth").read_bytes() == weights
    assert go(data, run, None, resume=True).is_complete
    report = go(data, run, None, resume=True, **limit)
    assert (report.was_complete, report.step) == (True, 6)


def test_stop_and_resume__a_limit_of_all_steps_ends_the_run(data: Path, tmp_path: Path) -> None:
    report = go(data, tmp_path / "run", max_steps=6)
    assert (report.is_complete, report.epoch, report.val_l1_levels is not None) == (True, 2, True)
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["is_complete"]
    order = batches.order(3, CONFIG, 2)
    (data / "train" / "masks" / f"p{order[-1]:03}.png").write_bytes(b"no")
    report = go(data, tmp_path / "bad", max_steps=4, skip_bad=True)
    assert (report.is_complete, report.step) == (True, 4)
    stopped = go(data, tmp_path / "stopped", skip_bad=True, should_stop=iter([False] * 5 + [True] * 9).__next__)
    assert (stopped.is_complete, stopped.was_stopped) == (True, False)


def test_stop_and_resume__too_little_memory_is_told_wherever_it_is_short(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "Pix2Pix", full)
        with pytest.raises(OutOfMemory, match="networks of ngf 2 and ndf 2 at 128 pixels; a narrower .* --ndf 1"):
            go(data, run)
        assert not (run / "config.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "evaluate", full)
        with pytest.raises(OutOfMemory, match="too little memory for validation at 128 pixels"):
            go(data, run)
    with monkeypatch.context() as patch:
        patch.setattr(Pix2Pix, "step", full)
        with pytest.raises(OutOfMemory, match="a batch of 3 at 128 .*: --batch-size 1$"):
            go(data, tmp_path / "wide", replace(CONFIG, batch_size=16))


def test_stop_and_resume__a_full_disk_names_the_events(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    run = tmp_path / "run"
    monkeypatch.setattr(metrics_log, "open_plain", lambda *_, **__: os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(OutputError, match=r"cannot write .*events/events\.out.*: No space left on device"):
        go(data, run, tensorboard=True)


def test_stop_and_resume__a_run_folder_that_is_removed_names_the_right_file(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(OutputError, match=r"cannot write .*run/(grids|state\.pt)"):
        go(data, run, tensorboard=True, on_step=lambda _: shutil.rmtree(run, ignore_errors=True))


def test_stop_and_resume__the_lock_gives_no_name_to_errors_of_others(tmp_path: Path) -> None:
    from m2l_runtime.runs.lock import locked

    with pytest.raises(OSError, match="^of another kind$"), locked(tmp_path, (1, 1)):
        raise OSError("of another kind")


@pytest.mark.parametrize("number", [slow(signal.SIGINT), signal.SIGTERM])
def test_stop_and_resume__a_second_signal_ends_with_its_own_status(number: signal.Signals) -> None:
    program = (
        "import os, sys, time; from m2l_runtime._utils.signals import StopSignals; from m2l_runtime.cli import main\n"
        "def app():\n"
        "    with StopSignals():\n"
        f"        os.kill(os.getpid(), {int(number)}); os.kill(os.getpid(), {int(number)}); time.sleep(9)\n"
        "import typer; t = typer.Typer(); t.command()(app); t()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 128 + number


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"flip": 1}, "flip must be True or False, got 1"),
    ({"dropout": "no"}, "dropout must be True or False, got 'no'"),
    ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
    ({"batch_size": 1.5}, "batch_size must be a whole number"),
    ({"ngf": True}, "ngf must be a whole number, got True"),
    ({"image_size": "a"}, "image_size must be .*, got 'a'"),
    ({"load_size": 143.0}, "load_size must be a whole number"),
    ({"lr": "fast"}, "lr must be a number, got 'fast'"),
    ({"beta1": False}, "beta1 must be a number, got False"),
    ({"lambda_l1": float("nan")}, "lambda_l1 must be a finite number, got nan"),
    ({"lambda_l1": 10**400}, "lambda_l1 must be a finite number"),
    ({"norm": ["batch"]}, "norm must be one of instance, batch, none, got "),
    ({"mirror": -1}, r"mirror \(--reflect-pad\) must be between 0"),
    (
        {"mirror": 286},
        r"mirror \(--reflect-pad\) must be less than the side that pictures are resized to \(286\), got 286",
    ),
    ({"detail": 1}, "detail must be True or False, got 1"),
    ({"discriminators": 0}, r"discriminators \(--num-discriminators\) must be between 1"),
    ({"discriminators": 5}, r"at most 4 for images of 256 pixels \(the last one sees at least 32\), got 5"),
    ({"l1_cell": 3}, r"l1_cell \(--l1-pool\) must divide image_size \(256\), got 3"),
    ({"seed": 2**64}, f"seed must be between 0 and 2147483648, got {2**64}"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[next(iter(c)) + str(i) for i, (c, _) in enumerate(WRONG)])
def test_stop_and_resume__settings_of_another_type_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**changes)


def test_stop_and_resume__numbers_of_numpy_are_numbers(data: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"load_size": np.int64(143), "ngf": np.uint8(2), "lr": np.float64(1e-3), "lambda_l1": 10}
    config = replace(CONFIG, **sizes)
    assert [type(getattr(config, name)) for name in sizes] == [int, int, float, float]
    go(data, tmp_path / "run", max_steps=1)
    go(data, tmp_path / "run", config, overwrite=True, max_steps=1)
    go(data, tmp_path / "run", None, resume=True, max_steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"ngf": 2}}, "config must be a TrainConfig or None"),
        ({"threads": "2"}, "threads must be a whole number or None, got '2'"),
        ({"threads": 100_000}, "threads must be between 1 and 1024, got 100000"),
        ({"workers": 1025}, "workers must be between 1 and 1024"),
        ({"device": 0}, "device must be a text, got 0"),
        ({"max_steps": True}, "max_steps must be a whole number"),
        ({"max_minutes": "1"}, "max_minutes must be a number"),
        ({"save_minutes": -1}, "save_minutes must be between 0 and 1000000000, got -1"),
        ({"save_minutes": None}, "save_minutes must be a number"),
        ({"save_epochs": 0.5}, "save_epochs must be a whole number"),
    ],
    ids=str,
)
def test_stop_and_resume__wrong_arguments_are_refused(
    data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        go(data, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_stop_and_resume__combined_data_stay_as_they_are(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(3):
        mask = disc(143, 40, 70, 70)
        both = np.concatenate([np.repeat(mask[:, :, None], 3, 2), photograph(mask, number)], 1)
        Image.fromarray(both).save(data / f"p{number}.png")
    with pytest.raises(InputError, match="lie one in the other"):
        go(data, data / "run")
    assert len(list(data.rglob("*"))) == 3


@pytest.mark.parametrize("skip_bad", [False, True])
def test_stop_and_resume__a_run_that_cannot_take_its_first_step_replaces_none(
    data: Path, tmp_path: Path, skip_bad: bool
) -> None:
    run = tmp_path / "run"
    go(data, run, max_steps=2)
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    for path in (data / "train" / "images").iterdir():
        path.write_bytes(b"torn")
    with pytest.raises(InputError):
        go(data, run, overwrite=True, skip_bad=skip_bad)
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before
    with pytest.raises(InputError):
        go(data, tmp_path / "new", skip_bad=skip_bad)
    assert not (tmp_path / "new" / "config.json").exists()
