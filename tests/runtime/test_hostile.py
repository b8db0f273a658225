"""What people's files, names and machines do to a run: said in a line, with nothing lost and no two taken for one."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
from command_line import CommandLine
from support import TINY_BUNDLE, disc, edit, save

from m2l_runtime import Synthesizer, open_source
from m2l_runtime._utils.memory import is_out_of_memory
from m2l_runtime._utils.text import ascii_json, shown, utf8
from m2l_runtime.backends import messages, registry
from m2l_runtime.backends.base import Backend, BackendSettings
from m2l_runtime.errors import (
    MAX_MESSAGE_CHARS,
    ArgumentTypeError,
    BundleDamaged,
    EngineError,
    EngineNotInstalled,
    M2LError,
)
from m2l_runtime.masks.mask_file import parse_mask
from m2l_runtime.masks.sources.shapes import Shapes
from m2l_runtime.synthesizer import run_in_batches

SYNTH = ("--backend", "fake", "--bundle", TINY_BUNDLE)


@pytest.mark.parametrize(
    ("one", "other"),
    [("raw\udcff.png", r"raw\udcff.png"), ("\udc5c", r"\udc5c"), (r"\x5c", "\\"), (r"\x5cu1234", r"\u1234")],
)
def test_utf8__two_names_stay_two(one: str, other: str) -> None:
    assert utf8(one) != utf8(other)
    assert utf8(one).encode()
    assert utf8(r"C:\users\new") == r"C:\users\new"


def test_pairs_csv__names_that_read_alike_have_rows_of_their_own(tmp_path: Path, m2l: CommandLine) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in (b"raw\xff.png", rb"raw\udcff.png"):
        (masks / os.fsdecode(name)).write_bytes(save(tmp_path / "m.png", disc(64, 20, 30, 30)).read_bytes())
    assert m2l("synth", masks, tmp_path / "out", "--pairs", *SYNTH).code == 0
    with (tmp_path / "out" / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["image"] for row in rows}) == len({row["source"] for row in rows}) == 2
    resumed = m2l("synth", masks, tmp_path / "out", "--pairs", "--resume", "--json", *SYNTH)
    assert (resumed.code, json.loads(resumed.out)["kept"]) == (0, 2)


def test_inspect__json_has_no_controls_and_is_the_same_document(tmp_path: Path, m2l: CommandLine) -> None:
    bundle = Path(shutil.copytree(TINY_BUNDLE, tmp_path / "b\u202e\udcff"))
    name = "evil\u202e\x7f\x9b31m\u2066 \U000e0001 naïve"
    edit(bundle, lambda manifest: manifest.update(name=name))
    done = m2l("inspect", bundle, "--json")
    assert done.code == 0
    assert all(c.isprintable() or c == "\n" for c in done.out)
    document = json.loads(done.out)
    assert document["manifest"]["name"] == name
    assert document["path"] == str(bundle)
    assert "naïve" in done.out


def test_ascii_json__strings_come_back() -> None:
    text = "".join(map(chr, [*range(0x300), 0x202E, 0x2028, 0xDCFF, 0xE0001, 0x1F600]))
    escaped = ascii_json(json.dumps(text, ensure_ascii=False))
    assert escaped.isprintable()
    assert json.loads(escaped) == text


def test_errors__numbers_and_names_without_end_are_shortened() -> None:
    assert (
        str(M2LError(f"got {'9' * 5000} and {10**50:,}"))
        == "got 9999999999... (5000 digits) and 1000000000... (51 digits)"
    )
    assert len(str(BundleDamaged("x" * 10**6))) <= MAX_MESSAGE_CHARS + 5
    sha256 = "0123456789abcdef" * 4
    assert str(M2LError(sha256)) == sha256


@pytest.mark.parametrize("value", [10**5000, -(10**70), np.int64(3), "x" * 10**6, [[]] * 10**6], ids=type)
def test_arguments__a_number_without_end_is_told_in_a_few_words(value: Any) -> None:
    if isinstance(value, np.int64):
        assert Shapes(seed=int(value)).seed == 3
        return
    with pytest.raises(ArgumentTypeError) as caught:
        Shapes(size=value)
    assert len(str(caught.value)) < 200
    assert len(shown(value)) < 60


@pytest.mark.slow
def test_drawn_masks__none_is_refused_when_it_is_read() -> None:
    for size in (16, 17, 24, 32):
        masks = open_source(f"shapes:400,size={size}")
        changed = 0
        for number, name in enumerate(masks.names):
            parse_mask(masks.content(name), (size, size))
            drawn = masks.source.draw(number)
            mask = masks.mask(name)
            changed += bool((mask != drawn).any())
            assert ((mask > 127) == (drawn > 127)).all()
        assert (changed > 0) == (size == 16 or changed > 0)
        assert changed < 40
    large = open_source("shapes:8,size=128")
    assert all((large.mask(name) == large.source.draw(at)).all() for at, name in enumerate(large.names))


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (1, 8, 8, 3), (2, 8, 8), (2, 8, 8, 4), (3, 8, 8, 3)])
def test_run_in_batches__an_engine_that_answers_otherwise_is_named(shape: tuple[int, ...]) -> None:
    class Odd:
        settings = BackendSettings("odd", "odd 1", "cpu", "fp32", batch_size=2, threads=1)
        notes = ()

        def run(self, inputs: Any) -> Any:
            return np.zeros(shape, np.uint8)

        def close(self) -> None: ...

    backend: Backend = Odd()
    with pytest.raises(EngineError, match=r"^odd answered \(.*\) uint8 to a batch of 2; expected \(2, 8, 8, 3\) uint8"):
        run_in_batches(backend, {"mask": np.zeros((2, 8, 8), np.uint8)})


@pytest.mark.parametrize(
    "words", ["can't alloc", "std::bad_alloc", "can't start new thread", "DefaultCPUAllocator: can't allocate memory"]
)
def test_memory__each_librarys_words_are_known(words: str, monkeypatch: pytest.MonkeyPatch, m2l: CommandLine) -> None:
    assert is_out_of_memory(RuntimeError(f"Failed: {words}"))
    assert not is_out_of_memory(RuntimeError("the model is not a model"))
    assert isinstance(messages.load_failure("engine 1", RuntimeError(words), "", 10), EngineError)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(Synthesizer, "open", fail)
    done = m2l("synth", "shapes:2", "/nowhere/out", "--backend", "fake")
    assert done.code == 1
    assert "too little memory" in done.err
    assert "report this" not in done.err


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux, words of its loader")
def test_memory__a_library_that_is_not_mapped_is_short_memory_under_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader's words are the same where a file system lets nothing be run."""
    import resource

    error = ImportError("libengine.so: failed to map segment from shared object")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr(registry, "importlib", SimpleNamespace(import_module=raise_it(error)))
    assert not is_out_of_memory(error)
    with pytest.raises(EngineNotInstalled, match="does not load .*reinstall it"):
        registry.backend_module("fake")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 30, resource.RLIM_INFINITY))
    assert is_out_of_memory(error)
    assert is_out_of_memory(RuntimeError("could not create a primitive"))
    with pytest.raises(EngineError, match="too little memory to load the backend 'fake'") as failure:
        registry.backend_module("fake")
    assert not isinstance(failure.value, EngineNotInstalled)


def raise_it(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object) -> NoReturn:
        raise error

    return fail


def test_memory__engines_that_blame_the_file_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("Unable to read the model. Please check if the model format is supported")
    assert isinstance(messages.load_failure("engine 1", error, "Unable", 10), BundleDamaged)
    monkeypatch.setattr(messages, "is_memory_short", lambda needed: True)
    failure = messages.load_failure("engine 1", error, "Unable", 10)
    assert isinstance(failure, EngineError)
    assert "too little memory for engine 1 to load the model" in str(failure)


def test_main__an_interrupt_for_want_of_memory_is_called_that(
    monkeypatch: pytest.MonkeyPatch, m2l: CommandLine
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Synthesizer, "open", interrupt)
    assert m2l("synth", "shapes:2", "/nowhere/out", "--backend", "fake").err == "m2l: interrupted\n"
    monkeypatch.setattr("m2l_runtime.cli.main.is_memory_short", lambda: True)
    done = m2l("synth", "shapes:2", "/nowhere/out", "--backend", "fake")
    assert (done.code, "too little memory" in done.err) == (1, True)


LINES = {
    "a name of NUL": {"output": "a\0b.png"},
    "a name too long": {"output": "x" * 5000},
    "a name outside": {"output": "../masks/000000-circle.png"},
    "a name below a file": {"output": "images/000000-circle.png/x"},
}


@pytest.mark.parametrize("what", [*LINES, "deep", "binary"])
def test_overwrite__a_hostile_log_removes_nothing_of_others(tmp_path: Path, m2l: CommandLine, what: str) -> None:
    out = tmp_path / "out"
    assert m2l("synth", "shapes:2", out, *SYNTH).code == 0
    (tmp_path / "masks").mkdir()
    victim = save(tmp_path / "masks" / "000000-circle.png", disc(64, 20, 30, 30))
    log = out / ".m2l" / "m2l-log.jsonl"
    record = json.loads(log.read_text().splitlines()[0])
    odd = (
        b"[" * 200_000
        if what == "deep"
        else b"\xff\0"
        if what == "binary"
        else json.dumps(record | LINES[what]).encode()
    )
    log.write_bytes(odd + b"\n" + log.read_bytes())
    for option in ("--resume", "--overwrite"):
        done = m2l("synth", "shapes:2", out, option, *SYNTH)
        assert done.code == 0, done.err
        assert victim.exists()
        assert len(list(out.rglob("images/*.png"))) == 2


def test_overwrite__nothing_is_removed_where_a_log_cannot_be_read(tmp_path: Path, m2l: CommandLine) -> None:
    out = tmp_path / "out"
    assert m2l("synth", "shapes:2", out, *SYNTH).code == 0
    os.mkfifo(out / ".m2l" / "m2l-log9.jsonl")  # read after the other
    done = m2l("synth", "shapes:3", out, "--overwrite", *SYNTH)
    assert done.code == 1
    assert "not a plain file" in done.err
    assert len(list(out.rglob("images/*.png"))) == 2
    assert (out / ".m2l" / "m2l-log.jsonl").exists()
