"""Checkpoint files: everything inferred, and everything else refused with what it is."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import CommandLine
from support import REFERENCE, TINY
from torch import Tensor, nn

from m2l_export.checkpoint import infer_spec, load_checkpoint, load_state, to_network
from m2l_runtime.errors import CheckpointError
from m2l_runtime.literals import Norm
from m2l_train.models.networks import UnetGenerator, UnetSpec

State = dict[str, Tensor]


def state(levels: int = 5, ngf: int = 2, input_nc: int = 3, output_nc: int = 3, norm: Norm = "instance") -> State:
    torch.manual_seed(0)
    return dict(UnetGenerator(UnetSpec(levels, ngf, input_nc, output_nc, norm)).state_dict())


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize(
    ("levels", "ngf", "input_nc", "output_nc"), [(5, 2, 3, 3), (7, 3, 1, 3), (8, 1, 3, 1), (9, 2, 1, 1)]
)
def test_checkpoint__everything_is_inferred(norm: Norm, levels: int, ngf: int, input_nc: int, output_nc: int) -> None:
    assert infer_spec(state(levels, ngf, input_nc, output_nc, norm)) == UnetSpec(levels, ngf, input_nc, output_nc, norm)


def test_checkpoint__the_originals_own_file() -> None:
    loaded = load_checkpoint(TINY / "tiny_net_G.pth")
    assert loaded.network.spec == UnetSpec(8, 2, 3, 3, "instance")
    assert loaded.file_name == "tiny_net_G.pth"
    assert not loaded.network.training


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoint__both_file_formats_of_pytorch(tmp_path: Path, legacy: bool) -> None:
    torch.save(OrderedDict(state()), tmp_path / "g.pth", _use_new_zipfile_serialization=not legacy)
    assert load_checkpoint(tmp_path / "g.pth").network.spec.levels == 5


@pytest.mark.parametrize("prefix", ["module.", "module.module."])
def test_checkpoint__prefixes_of_dataparallel(tmp_path: Path, prefix: str) -> None:
    torch.save({prefix + k: v for k, v in state().items()}, tmp_path / "g.pth")
    found = load_checkpoint(tmp_path / "g.pth").network.state_dict()
    for key, value in state().items():
        assert torch.equal(found[key], value)


def test_checkpoint__stale_buffers_of_untracked_norms_are_dropped() -> None:
    stale = state()
    for key in ("model.model.1.model.2", "model.model.1.model.6"):
        stale |= {f"{key}.running_mean": torch.zeros(2), f"{key}.running_var": torch.ones(2)}
        stale[f"{key}.num_batches_tracked"] = torch.tensor(7)
    network = to_network(stale)
    assert isinstance(network, UnetGenerator)
    assert network.spec.norm == "instance"
    assert list(network.state_dict()) == list(state())


def test_checkpoint__a_batch_norm_from_before_batches_were_counted() -> None:
    old = {k: v for k, v in state(norm="batch").items() if not k.endswith("num_batches_tracked")}
    network = to_network(old)
    assert isinstance(network, UnetGenerator)
    assert network.spec.norm == "batch"


def test_checkpoint__half_precision_is_widened(tmp_path: Path) -> None:
    torch.save({k: v.half() for k, v in state().items()}, tmp_path / "g.pth")
    network = load_checkpoint(tmp_path / "g.pth").network
    assert isinstance(network, UnetGenerator)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert torch.equal(network.model.down.weight, state()["model.model.0.weight"].half().float())


def discriminator() -> State:
    widths = {0: (2, 6), 2: (4, 2), 5: (8, 4), 8: (8, 8), 11: (1, 8)}
    return {f"model.{i}.weight": torch.zeros(o, n, 4, 4) for i, (o, n) in widths.items()}


class Innocent:
    """A pickle of this calls print when it is loaded by anything but weights_only."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code ran",))


def changed(key: str, value: Tensor | None, **new: Tensor) -> State:
    made = state()
    if value is None:
        del made[key]
    else:
        made[key] = value
    return made | new


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (discriminator(), r"a PatchGAN discriminator \(6 input channels, as latest_net_D.pth\)"),
        ({f"net.{i}.weight": torch.zeros(1, 6, 1, 1) for i in (0, 2, 5)}, "a pixel discriminator"),
        (dict(nn.Linear(3, 4).state_dict()), r"a state_dict of 2 tensors that is no generator \(weight, bias"),
        ({"model.model.0.weight": torch.zeros(2, 3, 4, 4)}, "fewer than 5 levels"),
        (
            {"epoch": 3, "state_dict": {"weight": torch.zeros(2)}, "netD": discriminator(), "optimizer": {}},
            "entries that are no tensors .epoch, state_dict, netD, optimizer.*no generator among them",
        ),
        ([torch.zeros(3)], "holds a list, not a state_dict"),
        (torch.zeros(3), "holds a Tensor, not a state_dict"),
        ({}, "empty state_dict"),
        (Innocent(), "Python code or objects"),
        (nn.Conv2d(3, 3, 3), "Python code or objects"),
        ({"a": np.zeros(3)}, "Python code or objects"),
        (state(input_nc=4), "4 input channels; expected 1 or 3"),
        (state(output_nc=2), "2 output channels; expected 1 or 3"),
        (changed("model.model.1.model.1.bias", None), "lacks model.model.1.model.1.bias"),
        (changed("model.model.3.bias", torch.zeros(3), extra=torch.zeros(1)), "also has extra"),
        (
            changed("model.model.1.model.1.weight", torch.zeros(5, 2, 4, 4)),
            r"shape \(5, 2, 4, 4\) where .* \(4, 2, 4, 4\)",
        ),
        (
            changed("model.model.3.bias", torch.tensor([0.0, float("nan"), 0])),
            "NaN or infinite numbers in model.model.3.bias",
        ),
        (changed("model.model.3.bias", torch.zeros(3, dtype=torch.complex64)), "not plain numbers"),
        (changed("model.model.3.bias", torch.zeros(3).to_sparse()), "not plain numbers"),
        (changed("model.model.0.weight", torch.zeros(2, 3, 3, 3)), "U-Net generator"),
        (changed("model.model.0.weight", torch.zeros(1).expand(1 << 20, 3, 4, 4)), "fewer numbers than that"),
        (changed("model.model.0.weight", torch.zeros(1).expand(2, 3, 4, 4)), "fewer numbers than that"),
        (changed("model.model.0.weight", torch.zeros(1).expand(1 << 40, 3, 4, 4)), "is like a U-Net .* overflowed"),
        ({k: v.to(torch.int32) for k, v in state().items()}, "as torch.int32; expected floating-point"),
        (changed("model.model.3.weight", torch.zeros(3)), "U-Net generator"),
    ],
)
def test_checkpoint__files_that_are_no_generator(tmp_path: Path, content: Any, message: str, m2l: CommandLine) -> None:
    path = tmp_path / "x_net_G.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(path)
    assert str(error.value).startswith(str(path))
    outcome = m2l("export", path, tmp_path / "bundle")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "bundle").exists()


def test_checkpoint__code_in_a_pickle_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.pth").write_bytes(pickle.dumps(Innocent()))
    with pytest.raises(CheckpointError, match="Python code or objects"):
        load_checkpoint(tmp_path / "g.pth")
    assert "code ran" not in capsys.readouterr().out
    pickle.loads((tmp_path / "g.pth").read_bytes())
    assert "code ran" in capsys.readouterr().out, "the pickle would have run code"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"words", "is not a PyTorch file"),
        (b"\x89PNG\r\n\x1a\n", "is not a PyTorch file"),
        (b"PK\x03\x04 no zip", "truncated or damaged"),
        (b"\x80\x02}", "truncated or damaged"),
    ],
)
def test_checkpoint__files_that_are_no_checkpoint(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "g.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "g.pth")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.9, 0.999])
def test_checkpoint__truncated_checkpoints(tmp_path: Path, share: float, legacy: bool) -> None:
    torch.save(state(), tmp_path / "g.pth", _use_new_zipfile_serialization=not legacy)
    content = (tmp_path / "g.pth").read_bytes()
    with pytest.raises(CheckpointError):
        load_state(content[: int(len(content) * share)])


def test_checkpoint__another_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "g.pth", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(CheckpointError, match="another kind of zip"):
        load_checkpoint(tmp_path / "g.pth")


def test_checkpoint__torchscript_is_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Conv2d(3, 3, 3)).save(str(tmp_path / "g.pth"))  # type: ignore[no-untyped-call]
    with pytest.raises(CheckpointError, match="is a TorchScript archive"):
        load_checkpoint(tmp_path / "g.pth")


def test_checkpoint__places(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    torch.save(state(), tmp_path / "run" / "latest_net_G.pth")
    for path, message in (
        ("run", "is a folder that holds latest_net_G.pth"),
        ("absent", "does not exist"),
        ("n\0", "does not exist|null"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / path)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference checkpoint is not here")
def test_checkpoint__the_trained_reference() -> None:
    assert load_checkpoint(REFERENCE / "latest_net_G.pth").network.spec == UnetSpec(8, 16, 3, 3, "instance")
    with pytest.raises(CheckpointError, match="PatchGAN discriminator"):
        load_checkpoint(REFERENCE / "latest_net_D.pth")


def compiled(keys: State, share: int) -> State:
    """Every `share`-th key gets what torch.compile puts in."""
    return {(f"_orig_mod.{key}" if n % share == 0 else key): value for n, (key, value) in enumerate(keys.items())}


def prefixed(prefix: str, keys: State) -> State:
    return {prefix + key: value for key, value in keys.items()}


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (lambda s: compiled(s, 1), "dropped '_orig_mod' from its keys"),
        (lambda s: compiled(prefixed("module.", s), 1), "dropped 'module' and '_orig_mod'"),
        (lambda s: prefixed("module.", compiled(s, 1)), "dropped 'module' and '_orig_mod'"),
        (lambda s: compiled(s, 2), "dropped '_orig_mod'"),
        (lambda s: {key.replace("model.model", "model._orig_mod.model", 1): v for key, v in s.items()}, "'_orig_mod'"),
        (lambda s: prefixed("module.", s) | {"n_averaged": torch.tensor(3)}, "'module' and 'n_averaged'"),
        (lambda s: prefixed("netG.", s), "took the keys that begin with 'netG.'"),
        (lambda s: prefixed("generator.", s) | prefixed("discriminator.", discriminator()), "left out discriminator"),
        (lambda s: prefixed("model.", s), "took the keys that begin with 'model.'"),
        (lambda s: prefixed("netG.module.", compiled(s, 1)), "'netG.'"),
        (lambda s: {"epoch": 3, "state_dict": s}, "took 'state_dict', left out epoch"),
        (
            lambda s: {"netG": s, "netD": discriminator(), "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
            "'netG'",
        ),
        (lambda s: {"state_dict": prefixed("netG.", s) | prefixed("netD.", discriminator())}, "left out netD"),
        (
            lambda s: {"model": {"generator": prefixed("module.", s)}, "step": 7},
            "took 'model.generator', left out step",
        ),
        (lambda s: dict(s) | {"epoch": 3}, "took its tensors, left out epoch"),
    ],
)
def test_checkpoint__as_frameworks_save_it(tmp_path: Path, content: Any, note: str) -> None:
    torch.save(content(state()), tmp_path / "g.pth")
    found = load_checkpoint(tmp_path / "g.pth")
    assert note in "; ".join(found.notes)
    weights = found.network.state_dict()
    assert list(weights) == list(state())
    for key, value in state().items():
        assert torch.equal(weights[key], value)


def test_checkpoint__a_bare_state_has_no_notes() -> None:
    assert load_checkpoint(TINY / "tiny_net_G.pth").notes == ()


@pytest.mark.parametrize(
    "content",
    [
        lambda s: {"netG_A": s, "netG_B": s},
        lambda s: prefixed("G_A.", s) | prefixed("G_B.", s),
        lambda s: {"netG": s, "ema": prefixed("module.", s)},
    ],
)
def test_checkpoint__several_generators_are_named(tmp_path: Path, content: Any) -> None:
    torch.save(content(state()), tmp_path / "g.pth")
    with pytest.raises(CheckpointError, match="holds 2 generators .*, .*save the state_dict of one of them alone"):
        load_checkpoint(tmp_path / "g.pth")


def test_checkpoint__a_nested_network_of_another_kind_is_named(tmp_path: Path) -> None:
    torch.save({"netD": discriminator(), "epoch": 1}, tmp_path / "d.pth")
    with pytest.raises(CheckpointError, match="holds a PatchGAN discriminator"):
        load_checkpoint(tmp_path / "d.pth")
    torch.save(state() | prefixed("module.", state()), tmp_path / "twice.pth")
    with pytest.raises(CheckpointError, match="has model.model.0.weight twice"):
        load_checkpoint(tmp_path / "twice.pth")


def safetensors(tensors: State, dtype: str = "F32", changed: dict[str, Any] | None = None) -> bytes:
    """A file by the format's definition: length, JSON, numbers."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for key, value in tensors.items():
        numbers = value.contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b""
        table[key] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(numbers)]}
        data += numbers
    header = json.dumps(table | (changed or {})).encode()
    return len(header).to_bytes(8, "little") + header + data


def test_checkpoint__safetensors(tmp_path: Path) -> None:
    for name, content, wanted in (
        ("bare", safetensors(state()), state()),
        ("prefixed", safetensors(prefixed("netG.", state())), state()),
        ("half", safetensors({k: v.bfloat16() for k, v in state().items()}, "BF16"), None),
    ):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
        found = load_checkpoint(tmp_path / f"{name}.safetensors").network.state_dict()
        for key, value in (wanted or {k: v.bfloat16().float() for k, v in state().items()}).items():
            assert torch.equal(found[key], value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (safetensors(state())[:-5], "damaged safetensors file"),
        (
            safetensors(state(), changed={"x": {"dtype": "F8", "shape": [], "data_offsets": [0, 1]}}),
            "damaged safetensors file",
        ),
        (
            safetensors(state(), changed={"x": {"dtype": "F32", "shape": [9] * 40, "data_offsets": [0, 4]}}),
            "damaged safetensors file",
        ),
        (
            safetensors(state(), changed={"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
            "damaged safetensors file",
        ),
        (safetensors(state(), changed={"x": 5}), "damaged safetensors file"),
        ((9).to_bytes(8, "little") + b"{" + b"[" * 8, "damaged safetensors file"),
    ],
)
def test_checkpoint__damaged_safetensors(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "g.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "g.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer.*git lfs pull"),
        (
            b"<!doctype html>\n<html><title>Sign in</title>",
            "is a web page .HTML., not the file.*download it again",
        ),
        (b"\x1f\x8b\x08\0", "is packed with gzip; unpack it first"),
    ],
)
def test_checkpoint__what_downloads_leave(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "g.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "g.pth")


def test_checkpoint__export_says_what_was_taken(tmp_path: Path, m2l: CommandLine) -> None:
    torch.save({"netG": {}, "state_dict": prefixed("netG.", state())}, tmp_path / "g.pth")
    outcome = m2l("export", tmp_path / "g.pth", tmp_path / "bundle")
    assert "took the keys that begin with 'netG.'" in outcome.err
    assert outcome.code == 0
