"""The preset `fast`: appearances, pairs decoded once, averaged weights, several processes."""

from __future__ import annotations

import json
import mmap
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import CommandLine
from poor_disk import refuse
from preloaded import M2L, PreloadedProcess
from support import TINY, slow
from synthetic_data import data_folder
from torch import Tensor

from m2l_runtime.conditioning import appearance
from m2l_runtime.errors import InputError
from m2l_train import TrainConfig, train
from m2l_train.config import PRESETS
from m2l_train.data import decoded_cache
from m2l_train.data.batches import epoch_batches
from m2l_train.data.data_folder import open_data
from m2l_train.data.photograph import PairError, read_pair
from m2l_train.models import appearance as device_appearance
from m2l_train.models.networks import InstanceNorm2d, UnetGenerator, UnetSpec
from m2l_train.models.pix2pix import Pix2Pix, to_input

SMALL = replace(
    PRESETS["fast"], image_size=128, ngf=2, ndf=2, n_epochs=2, n_epochs_decay=1, batch_size=2, compile=False, ema=0.9
)
CPU = torch.device("cpu")


def go(data: Path, run: Path, config: TrainConfig | None = SMALL, **options: Any) -> Any:
    settings: dict[str, Any] = {"threads": 1, "tensorboard": False, "device": "cpu"} | options
    return train(data, run, config, **settings)


def state(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "state.pt", weights_only=True)
    return found


def test_fast_preset__colors_on_the_device_are_those_of_the_runtime() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (5, 32, 24, 3), dtype=np.uint8)
    images[1] = (images[1] // 16) + 200  # hardly any spread
    masks = np.where(generator.random((5, 32, 24)) < 0.3, 255, 90).astype(np.uint8)
    masks[2], masks[3] = 0, 255
    found = device_appearance.measure(torch.from_numpy(images), torch.from_numpy(masks)).numpy()
    expected = np.stack([appearance.measure(i, m) for i, m in zip(images, masks, strict=True)])
    np.testing.assert_allclose(found, expected, atol=2e-3)
    with torch.autocast("cpu", torch.bfloat16):
        to_half_precision = device_appearance.measure(torch.from_numpy(images), torch.from_numpy(masks)).numpy()
    np.testing.assert_array_equal(to_half_precision, found)
    every = device_appearance.measure(torch.from_numpy(images), torch.from_numpy(masks), every=2).numpy()
    thinned = np.stack([appearance.measure(i[::2, ::2], m[::2, ::2]) for i, m in zip(images, masks, strict=True)])
    np.testing.assert_allclose(every, thinned, atol=2e-3)


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, load_size=128, turn=False), replace(SMALL, flip=False)])
def test_fast_preset__decoded_batches_are_those_that_are_read_one_by_one(tmp_path: Path, config: TrainConfig) -> None:
    pairs = open_data(data_folder(tmp_path / "data", 7)).train
    with ThreadPoolExecutor(2) as pool:
        assert decoded_cache.decode_pairs(pairs, config, tmp_path / "pixels", pool, None) == set()
        pixels = decoded_cache.map_pixels(tmp_path / "pixels", len(pairs), config.crop_from)
        (tmp_path / "pixels").unlink()
        turned = 0
        for epoch in (1, 2):
            plain = list(epoch_batches(pairs, config, epoch, pool))
            fast = list(decoded_cache.decoded_batches(pairs, pixels, set(), config, epoch, pool, CPU))
            assert [(b.names, b.last_position) for b in fast] == [(b.names, b.last_position) for b in plain]
            for one, other in zip(fast, plain, strict=True):
                np.testing.assert_array_equal(np.asarray(one.masks), other.masks)
                np.testing.assert_array_equal(np.asarray(one.images), other.images)
            turned += sum(not np.array_equal(np.asarray(b.masks)[0], np.asarray(b.masks)[0][:, ::-1]) for b in fast)
            rest = list(
                decoded_cache.decoded_batches(
                    pairs, pixels, set(), config, epoch, pool, CPU, after=fast[1].last_position
                )
            )
            assert [b.names for b in rest] == [b.names for b in fast[2:]]
        assert turned, "pictures that are their own mirror images would prove nothing"
        halves = [
            list(decoded_cache.decoded_batches(pairs, pixels, set(), config, 1, pool, CPU, share=(i, 2)))
            for i in range(2)
        ]
        together = [a.names + b.names for a, b in zip(*halves, strict=True)]
        whole = list(decoded_cache.decoded_batches(pairs, pixels, set(), config, 1, pool, CPU))
        assert together == [b.names for b in whole if len(b.names) == 2], "the odd one at the end is left out"


def test_fast_preset__pairs_that_cannot_be_read_are_told_and_left_out(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "data", 6)
    (folder / "train" / "images" / "p002.png").write_bytes(b"no picture")
    with pytest.raises(PairError, match=r"p002\.png"):
        go(folder, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.p*")), "nothing was begun"
    report = go(folder, tmp_path / "run", skip_bad=True, max_steps=2)
    assert [text for text in report.skipped if "p002" in text]
    assert state(tmp_path / "run")["G"]["appearance.table"].shape == (5, 12)
    assert not [p for p in (tmp_path / "run").iterdir() if "decoded" in p.name], "nothing is left of the pixels"


@pytest.mark.parametrize("decode_once", [True, False])
def test_fast_preset__a_folder_of_bad_pairs_is_told(tmp_path: Path, decode_once: bool) -> None:
    folder = data_folder(tmp_path / "data", 3)
    for path in (folder / "train" / "images").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of the 3 pairs can be read"):
        go(folder, tmp_path / "run", replace(SMALL, decode_once=decode_once), skip_bad=True)


def test_fast_preset__a_turn_turns_anticlockwise(tmp_path: Path) -> None:
    from m2l_train.data.batches import Placement

    rows = torch.arange(4, dtype=torch.uint8).reshape(1, 2, 2, 1).repeat(1, 1, 1, 4)
    masks, images = decoded_cache.cut(rows, [Placement(0, 0, False, 1)], 2)
    assert masks[0].tolist() == [[1, 3], [0, 2]]
    assert images.shape == (1, 2, 2, 3)
    masks, _ = decoded_cache.cut(rows, [Placement(0, 0, True, 1)], 2)
    assert masks[0].tolist() == [[0, 2], [1, 3]]


def test_fast_preset__an_appearance_scales_and_shifts_what_the_norms_give() -> None:
    torch.manual_seed(0)
    network = UnetGenerator(UnetSpec(7, 2, 3, 3, "instance", dropout=False, appearance_rows=3)).double().eval()
    steering = network.appearance
    assert steering is not None
    table = torch.rand(3, 12, dtype=torch.float64) * 50
    steering.set_table(table)
    torch.nn.init.normal_(steering.out.weight, 0, 0.5)
    given = torch.rand(2, 12, dtype=torch.float64) * 50
    scaled = (given - table.mean(0)) / table.std(0)
    weights = {name: value.detach() for name, value in steering.named_parameters()}
    hidden = scaled
    for layer in ("hidden.0", "hidden.2"):
        hidden = F.leaky_relu(hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"], 0.2)
    numbers = hidden @ weights["out.weight"].T + weights["out.bias"]
    seen: list[Tensor] = []
    norms = [block.up_norm for block in network.blocks()[1:]]
    for norm in norms:
        assert norm is not None
        norm.register_forward_hook(lambda _, __, y: seen.append(y))
    blocks = network.blocks()
    outputs: list[Tensor] = []
    for block in blocks[1:]:
        block.register_forward_hook(lambda _, __, y: outputs.append(y))
    mask = torch.rand(2, 3, 128, 128, dtype=torch.float64)
    first = network(mask, given)
    widths = [2, 4, 8, 16, 16, 16]
    starts = np.cumsum([0, *(2 * w for w in widths)])
    for place, width in enumerate(reversed(widths)):  # innermost first
        level = len(widths) - 1 - place
        scale, shift = torch.split(numbers[:, starts[level] : starts[level + 1]], width, 1)
        expected = seen[place] * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
        torch.testing.assert_close(outputs[place][:, -width:], expected, atol=1e-12, rtol=0)
    other = network(mask, given + 5)
    assert not torch.allclose(first, other, atol=1e-3)


def test_fast_preset__appearances_are_kept_with_the_weights(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", 5)
    go(data, tmp_path / "run", max_steps=1)
    saved = torch.load(tmp_path / "run" / "latest_net_G.pth", weights_only=True)
    pairs = [read_pair(pair, 143) for pair in open_data(data).train]
    expected = [appearance.measure(pair.image, pair.mask) for pair in pairs]
    np.testing.assert_allclose(saved["appearance.table"].numpy(), np.stack(expected), atol=2e-3)
    np.testing.assert_allclose(saved["appearance.mean"].numpy(), np.mean(expected, 0), atol=2e-3)
    plain = go(data, tmp_path / "plain", replace(SMALL, decode_once=False), max_steps=1)
    assert plain.step == 1
    without = torch.load(tmp_path / "plain" / "latest_net_G.pth", weights_only=True)
    torch.testing.assert_close(without["appearance.table"], saved["appearance.table"], atol=1e-4, rtol=0)


def test_fast_preset__half_precision_is_normalised_in_single() -> None:
    x = (torch.rand(1, 2, 64, 64) * 1e-2 + 100).to(torch.bfloat16)
    found = InstanceNorm2d(2)(x)
    assert found.dtype == torch.bfloat16
    exact = x.double()
    expected = (exact - exact.mean((2, 3), keepdim=True)) / (exact.var((2, 3), False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(found.double(), expected, atol=2**-8, rtol=2**-7)


def test_fast_preset__the_average_follows_the_generator() -> None:
    torch.manual_seed(0)
    networks = Pix2Pix(replace(SMALL, appearance=False, bf16=False, ema=0.7))
    assert networks.ema_generator is not None
    expected = {name: value.detach().double() for name, value in networks.generator.named_parameters()}
    masks = np.zeros((2, 128, 128), np.uint8)
    masks[:, 30:80, 40:90] = 255
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    for step in range(1, 6):
        networks.step(masks, images)
        keep = min(0.7, (1 + step) / (10 + step))
        for name, value in networks.generator.named_parameters():
            expected[name] = keep * expected[name] + (1 - keep) * value.detach().double()
    for name, value in networks.ema_generator.named_parameters():
        torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=1e-5)
    assert networks.inference_generator is networks.ema_generator
    made = networks.synthesize(masks)
    with torch.no_grad():
        pixels = networks.ema_generator.eval()(to_input(masks, CPU))[0].permute(1, 2, 0)
    expected_pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).numpy()
    np.testing.assert_allclose(made[0].astype(np.float32), expected_pixels, rtol=0, atol=1)  # a batch of two, and alone
    assert (made[0] == expected_pixels).mean() > 0.999


@pytest.mark.parametrize("config", [SMALL, slow(replace(SMALL, decode_once=False, appearance=False))])
def test_fast_preset__going_on_gives_the_bits_of_a_run_in_one_go(tmp_path: Path, config: TrainConfig) -> None:
    data = data_folder(tmp_path / "data", 5)
    go(data, tmp_path / "whole", config)
    for limit in (2, 5, None):
        go(data, tmp_path / "parts", None if limit != 2 else config, max_steps=limit, resume=limit != 2)
    one, other = state(tmp_path / "whole"), state(tmp_path / "parts")
    for part in ("G", "D", "G_averaged"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), name
    inference_generator = torch.load(tmp_path / "parts" / "latest_net_G.pth", weights_only=True)
    assert all(torch.equal(value, inference_generator[name]) for name, value in other["G_averaged"].items())
    assert not torch.equal(other["G"]["model.model.0.weight"], inference_generator["model.model.0.weight"])


def test_fast_preset__a_state_without_its_average_is_refused(tmp_path: Path) -> None:
    data = data_folder(tmp_path / "data", 5)
    go(data, tmp_path / "run", max_steps=1)
    damaged = state(tmp_path / "run")
    del damaged["G_averaged"]
    torch.save(damaged, tmp_path / "run" / "state.pt")
    with pytest.raises(InputError, match="G_averaged"):
        go(data, tmp_path / "run", None, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1\.0"),
        ({"ema": "x"}, "ema must be a number"),
        ({"appearance": 1}, "appearance must be True or False"),
        ({"norm": "none"}, "appearance modulates what norms give"),
        ({"turn": None}, "turn must be True or False"),
    ],
)
def test_fast_preset__settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SMALL, **settings)


def test_fast_preset__the_preset_from_the_command_line(tmp_path: Path, m2l: CommandLine) -> None:
    data = data_folder(tmp_path / "data", 5)
    small = ("--image-size", 128, "--ngf", 2, "--ndf", 2, "--batch-size", 2, "--no-compile", "--threads", 1)
    m2l("train", data, tmp_path / "run", "--preset", "fast", *small, "--max-steps", 2)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["appearance"]
    assert config["decode_once"]
    assert config["upsample"] == "resize"
    assert config["ema"] == 0.999
    assert config["compile"] is False


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler imports what PyTorch itself calls outdated
def test_fast_preset__compiled_networks_compute_the_same(tmp_path: Path) -> None:
    masks = np.zeros((2, 128, 128), np.uint8)
    masks[:, 30:80, 40:90] = 255
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    found = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        config = replace(SMALL, bf16=False, compile=is_compiled)
        networks = Pix2Pix(config, appearance_rows=3)
        networks.set_appearance_table(torch.rand(3, 12, generator=torch.Generator().manual_seed(1)) * 50)
        if is_compiled:
            networks.compile(len(masks))
        with torch.compiler.set_stance("fail_on_recompile"):  # the rehearsal has met all that a step does
            found.append([networks.step(masks, images) for _ in range(2)])
            networks.step(masks[:1], images[:1])  # a smaller batch is not compiled
    for one, other in zip(*found, strict=True):
        assert (one.G_GAN, one.G_L1, one.D_fake) == pytest.approx((other.G_GAN, other.G_L1, other.D_fake), rel=1e-3)


# --- several processes ---

STEP = """
import sys, numpy as np, torch
from dataclasses import replace
from m2l_train.config import TrainConfig
from m2l_train.models.pix2pix import Pix2Pix
from m2l_train.training.distributed import process_group
torch.set_num_threads(1)
data = np.load(sys.argv[1])
config = TrainConfig(image_size=256, ngf=2, ndf=2, dropout=False, batch_size=len(data["mask"]))
with process_group(torch.device("cpu")) as processes:
    torch.manual_seed(processes.rank)  # other weights in each, until they take the first one's
    networks = Pix2Pix(config, average=None if processes.world_size == 1 else processes.average)
    processes.broadcast(networks.tensors())
    each = len(data["mask"]) // processes.world_size
    mine = slice(processes.rank * each, (processes.rank + 1) * each)
    losses = networks.step(data["mask"][mine], data["image"][mine])
    if processes.is_main_process:
        found = {f"{n}/{k}": p.grad.numpy() for n, m in (("G", networks.generator), ("D", networks.discriminator))
                 for k, p in m.named_parameters()}
        np.savez(sys.argv[2], losses=[losses.G_GAN, losses.G_L1, losses.D_real, losses.D_fake], **found)
"""


def in_processes(count: int, code: str, *arguments: object) -> list[PreloadedProcess]:
    """The same program in several processes that know of one another as torchrun would tell them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        PreloadedProcess(code, *arguments, environment=shared | {"RANK": n, "LOCAL_RANK": n}) for n in range(count)
    ]
    for process in started:
        process.wait()
    if any(p.wait() == -signal.SIGABRT and "without an active exception" in p.stderr for p in started):
        return in_processes(count, code, *arguments)  # a thread of gloo that outlives the interpreter, now and then
    return started


@pytest.mark.slow
def test_fast_preset__two_processes_average_to_the_gradients_of_one_with_the_doubled_batch(tmp_path: Path) -> None:
    with np.load(TINY / "train_steps.npz") as found:
        masks = np.concatenate([found[f"step{s}/mask"] for s in range(2)])
        images = np.concatenate([found[f"step{s}/image"] for s in range(2)])
    np.savez(tmp_path / "data.npz", mask=masks, image=images)
    for count in (1, 2):
        for done in in_processes(count, STEP, tmp_path / "data.npz", tmp_path / f"{count}.npz"):
            assert done.wait() == 0, done.stderr
    with np.load(tmp_path / "1.npz") as one, np.load(tmp_path / "2.npz") as two:
        np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5)
        compared = 0
        for name in one.files:
            if name == "losses":
                continue
            weight = np.linalg.norm(one[name.replace(".bias", ".weight")])
            if name.endswith("bias") and np.linalg.norm(one[name]) < 1e-4 * weight:
                continue  # ahead of a norm: rounding, and nothing else
            compared += 1
            difference = np.linalg.norm(one[name] - two[name]) / np.linalg.norm(one[name])
            assert difference < 1e-5, (name, difference)
        assert compared >= 16 + 5, "all weights of both networks"


@pytest.mark.slow
def test_fast_preset__a_run_of_two_processes_is_a_run(tmp_path: Path) -> None:
    """One writes; what they trained is what one process trains on whole batches, within rounding; one can go on."""
    data = data_folder(tmp_path / "data", 5)
    options = ("--preset", "fast", "--image-size", 128, "--ngf", 2, "--ndf", 2, "--batch-size", 2, "--no-compile")
    more = ("--no-bf16", "--threads", 1, "--device", "cpu", "--n-epochs", 1, "--n-epochs-decay", 0)
    two = in_processes(2, M2L, "train", data, tmp_path / "two", *options, *more)
    assert [done.wait() for done in two] == [0, 0], [done.stderr for done in two]
    assert two[1].stdout == "", "the second process says nothing"
    found = state(tmp_path / "two")
    assert found["step"] == 2, "the odd pair at the end is left out"
    go(data, tmp_path / "one", replace(SMALL, bf16=False, ema=0.999, n_epochs=1, n_epochs_decay=0), max_steps=2)
    one = state(tmp_path / "one")
    for part in ("G", "D"):
        for name, value in one[part].items():
            if name.endswith(
                "weight"
            ):  # a bias ahead of a norm has rounding for a gradient, which Adam makes a step of
                away = (found[part][name] - value).abs()
                assert float((away > 2e-5).float().mean()) < 0.05, name
    assert sorted(p.name for p in (tmp_path / "two").iterdir() if not p.name.startswith(".")) == [
        "config.json",
        "data.json",
        "events",
        "grids",
        "latest_net_D.pth",
        "latest_net_G.pth",
        "metrics.jsonl",
        "progress.json",
        "state.pt",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--no-decode-once",), "give --decode-once"),
        slow(("--batch-size", 3), "cannot be dealt out evenly to 2 processes"),
    ],
)
def test_fast_preset__what_several_processes_cannot_do(
    tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    data = data_folder(tmp_path / "data", 3)
    small = ("--preset", "fast", "--image-size", 128, "--ngf", 2, "--ndf", 2, "--no-compile", "--device", "cpu")
    for done in in_processes(2, M2L, "train", data, tmp_path / "run", *small, *options):
        assert done.wait() == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_fast_preset__torchruns_variables_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_folder(tmp_path / "data", 3)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match="WORLD_SIZE must be a whole number, got 'two'"):
        go(data, tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"not LOCAL_RANK.*start with torchrun"):
        go(data, tmp_path / "run")


@pytest.mark.parametrize("is_fast", [True, False])
def test_fast_preset__a_run_says_what_it_takes_the_data_for_and_how_it_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_fast: bool
) -> None:
    notes: list[str] = []
    monkeypatch.setattr("m2l_train.models.pix2pix.computes_bf16", lambda _: is_fast)
    go(data_folder(tmp_path / "data", 5), tmp_path / "run", max_steps=1, on_note=notes.append)
    how = "bfloat16" if is_fast else "fp32, as bfloat16 is not fast here"
    assert f"5 pairs to train on, 2 to validate on (train/images with train/masks); cpu, {how}" in notes


@pytest.mark.slow
def test_fast_preset__needs_no_mapped_files_and_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_folder(tmp_path / "data", 4)
    go(data, tmp_path / "whole", max_steps=1)
    refuse(monkeypatch, 38, "ftruncate")
    refuse(monkeypatch, 95, "flock")
    refuse(monkeypatch, 22, "fsync")

    def no_mmap(*_: object, **__: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(mmap, "mmap", no_mmap)
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **options: _unlink_closed(unlink, path, options))
    notes: list[str] = []
    go(data, tmp_path / "run", max_steps=1, on_note=notes.append)
    monkeypatch.undo()
    for name, value in state(tmp_path / "whole")["G"].items():
        assert torch.equal(value, state(tmp_path / "run")["G"][name])
    assert len([note for note in notes if "has no locks" in note]) == 1
    go(data, tmp_path / "run", None, resume=True, max_steps=2)
    assert not list((tmp_path / "run").glob(".m2l-*.partial"))


def _unlink_closed(unlink: Any, path: Path, options: Any) -> None:
    if "decoded" in path.name:
        raise PermissionError(13, "Permission denied")
    unlink(path, **options)
