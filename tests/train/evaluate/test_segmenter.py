"""The segmenter: what it learns, its file, and what stops its training."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine
from evaluation_data import masks, photographs, write_data

from m2l_runtime.errors import ArgumentError, Diverged, InputError, OutputError
from m2l_train.evaluate import fitting
from m2l_train.evaluate.fitting import augment
from m2l_train.evaluate.metrics import mask_fidelity
from m2l_train.evaluate.segmenter import SegmenterNetwork, SegmenterSpec, load_segmenter, new_network
from m2l_train.evaluate.training import train_segmenter

QUICK: dict[str, Any] = {"epochs": 1, "width": 2, "threads": 1, "workers": 1}


def test_segmenter__it_learns_to_find_lesions(segmenter: Path) -> None:
    network = load_segmenter(segmenter)
    images, given = photographs(6, 256, 300), masks(6, 256, 300)
    counted: list[int] = []
    lesions, features = network(images, on_image=counted.append)
    assert (lesions.shape, features.shape) == ((6, 256, 256), (6, network.spec.feature_count))
    assert sum(counted) == 6
    assert mask_fidelity.compare(given, lesions).dice.mean() > 0.9
    assert network.facts.val_dice > 0.9
    one, _ = network(images[2:3])
    np.testing.assert_allclose(one[0], lesions[2], atol=1e-5)


def test_segmenter__the_same_seed_gives_the_same_weights(data: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.pt", "b.pt", "c.pt")]
    for path, seed in zip(files, (0, 0, 1), strict=True):
        train_segmenter(data, path, seed=seed, **QUICK)
    found = [load_segmenter(path) for path in files]
    states = [torch.load(path, weights_only=True)["weights"] for path in files]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["last.weight"], states[2]["last.weight"])
    assert found[0].facts == found[1].facts
    assert (found[0].facts.train_count, found[0].facts.val_count, found[0].facts.steps) == (12, 8, 1)
    assert found[0].sha256 == found[1].sha256


def test_segmenter__augmentation_turns_both_halves_alike_and_leaves_masks_their_values() -> None:
    image, mask = photographs(1)[0], masks(1)[0]
    seen = set()
    for place in range(80):
        moved, turned = augment(image, mask, 0, 1, place)
        assert set(np.unique(turned)) == {0, 255}
        dark = moved.mean(2) < (moved[turned == 255].mean() + moved[turned == 0].mean()) / 2
        assert mask_fidelity.dice(dark, turned == 255) > 0.98
        seen.add(turned.tobytes())
    assert len(seen) == 8


def test_segmenter__a_network_has_drawn_weights_of_the_right_size() -> None:
    network = new_network(SegmenterSpec(), 0)
    weight = dict(network.named_parameters())["down.2.0.0.weight"]
    assert weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
    assert network(torch.zeros(2, 3, 128, 128)).shape == (2, 1, 128, 128)
    assert SegmenterSpec().feature_count == 16 + 32 + 64 + 128 + 128


@pytest.mark.parametrize("values", [{"width": 0}, {"levels": 9}, {"side": 100}, {"width": 1.5}])
def test_segmenter__specs_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a segmenter's"):
        SegmenterSpec(**values)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("1/0",)


def test_segmenter__files_that_are_no_segmenter(segmenter: Path, tmp_path: Path) -> None:
    content = torch.load(segmenter, weights_only=True)
    files = {name: tmp_path / name for name in ("missing", "text", "empty", "bomb", "pickled", "cut")}
    files["text"].write_text("none")
    files["empty"].touch()
    torch.save(Bomb(), files["bomb"])
    files["pickled"].write_bytes(pickle.dumps(Bomb()))
    files["cut"].write_bytes(segmenter.read_bytes()[:-500])
    broken = {
        "generator": {"model.0.weight": torch.zeros(3)},
        "newer": content | {"version": 2},
        "spec": content | {"spec": {"width": 10**9, "levels": 4, "side": 128}},
        "words": content | {"spec": "none"},
        "facts": content | {"facts": {}},
        "weights": content | {"weights": content["weights"] | {"last.weight": torch.zeros(1, 3, 1, 1)}},
        "few": content | {"weights": {}},
        "nan": content | {"weights": content["weights"] | {"last.bias": torch.tensor([torch.nan])}},
    }
    for name, value in broken.items():
        torch.save(value, tmp_path / name)
    for path in (*files.values(), *(tmp_path / name for name in broken), tmp_path):
        with pytest.raises(InputError, match=rf"{path.name} (is|does)"):
            load_segmenter(path)


def test_segmenter__what_cannot_be_trained(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.pt"
    for options, error, message in (
        ({"epochs": 0}, InputError, "epochs must be"),
        ({"width": 0}, InputError, "width must be"),
        ({"seed": -1}, InputError, "seed must be"),
        ({"max_minutes": 0.0}, InputError, "minutes must be"),
        ({"threads": 0}, InputError, "threads and workers"),
        ({"device": "tpu"}, ArgumentError, "no device 'tpu'"),
    ):
        with pytest.raises(error, match=message):
            train_segmenter(data, out, **QUICK | options)
    with pytest.raises(InputError, match="no val split"):
        train_segmenter(data / "train", out, **QUICK)
    with pytest.raises(OutputError, match="does not exist; make it first"):
        train_segmenter(data, tmp_path / "no" / "out.pt", **QUICK)
    with pytest.raises(OutputError, match="is a folder"):
        train_segmenter(data, tmp_path, **QUICK)
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        train_segmenter(data, out, **QUICK)
    assert out.read_text() == "mine"
    monkeypatch.setattr(fitting, "loss", lambda logits, target: (logits * torch.nan).sum())
    with pytest.raises(Diverged, match="at step 1"):
        train_segmenter(data, tmp_path / "new.pt", **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["out.pt"]


def test_segmenter__a_limit_of_time_keeps_what_was_reached(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", 40, 2)
    report = train_segmenter(data, tmp_path / "out.pt", **QUICK | {"max_minutes": 1e-6, "epochs": 3})
    assert report.facts is not None
    assert (report.facts.steps, report.facts.epochs) == (1, 3)
    assert load_segmenter(tmp_path / "out.pt").facts == report.facts


def test_segmenter__a_wish_to_stop_writes_nothing(data: Path, tmp_path: Path) -> None:
    report = train_segmenter(data, tmp_path / "out.pt", should_stop=lambda: True, **QUICK)
    assert report.was_stopped
    assert list(tmp_path.iterdir()) == []


def test_segmenter__at_the_command_line(
    m2l: CommandLine, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.pt"
    options = ("--epochs", 1, "--width", 2, "--threads", 1)
    done = m2l("evaluate", "segmenter", data, out, *options)
    assert (done.code, f"{out}: Dice" in done.out) == (0, True), done
    assert "epoch 1 of 1: loss" in done.err
    again = m2l("evaluate", "segmenter", data, out, *options)
    assert (again.code, "exists already" in again.err, "Traceback" in again.err) == (1, True, False)
    assert m2l("evaluate", "segmenter", data, out, "--overwrite", *options).code == 0

    forward = SegmenterNetwork.forward

    def interrupted(self: SegmenterNetwork, x: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(SegmenterNetwork, "forward", forward)
        return forward(self, x)

    monkeypatch.setattr(SegmenterNetwork, "forward", interrupted)
    stopped = m2l("evaluate", "segmenter", data, tmp_path / "other.pt", "--epochs", 9, "--width", 2, "--threads", 1)
    assert (stopped.code, "nothing was written" in stopped.err) == (130, True), stopped
    assert [path.name for path in tmp_path.iterdir()] == ["out.pt"]


def test_segmenter__a_file_with_a_flipped_bit_is_refused(segmenter: Path, tmp_path: Path) -> None:
    content = bytearray(segmenter.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "s.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"s\.pt is damaged.*: what it holds is not what was written"):
        load_segmenter(tmp_path / "s.pt")
