"""Bundles: what is read, and everything that is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from command_line import CommandLine
from support import TINY_BUNDLE, Change, edit, npz, replace_file

from m2l_runtime import Synthesizer, open_bundle
from m2l_runtime.bundle.io import write_bundle
from m2l_runtime.bundle.schema import MAX_MANIFEST_BYTES, FileEntry, Manifest
from m2l_runtime.errors import (
    BundleDamaged,
    BundleError,
    BundleNotFound,
    BundleTooNew,
    EngineError,
    M2LError,
    OutputError,
)


def test_bundle__what_is_written_is_read(tmp_path: Path) -> None:
    bundle = open_bundle(TINY_BUNDLE)
    contents = {entry.path: bundle.read(entry) for entry in bundle.manifest.files}
    again = write_bundle(tmp_path / "again", bundle.manifest, contents)
    assert again.manifest == bundle.manifest
    assert again.sha256 == bundle.sha256 == hashlib.sha256((TINY_BUNDLE / "manifest.json").read_bytes()).hexdigest()
    again.check()
    assert sorted(os.listdir(tmp_path)) == ["again"]


def test_bundle__the_golden_pair(tiny_synth: Synthesizer) -> None:
    inputs, images = open_bundle(TINY_BUNDLE).read_golden()
    assert images.shape == (3, 256, 256, 3)
    assert np.abs(tiny_synth(inputs["mask"]).astype(int) - images).max() <= 1


def test_bundle__the_bundle_folder_itself_may_be_a_link(bundle_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle_copy)
    open_bundle(tmp_path / "link").check()


def test_bundle__no_bundle_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for name, message in (("absent", "does not exist"), ("file", "is a file"), ("folder", "has no manifest.json")):
        with pytest.raises(BundleNotFound, match=message):
            open_bundle(tmp_path / name)
    with pytest.raises(BundleNotFound):
        open_bundle("nul\0")


def set_path(value: str) -> Change:
    return lambda m: m["golden"]["file"].update(path=value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda m: m.update(schema_version=4),
            BundleTooNew,
            "schema version 4, this m2l reads versions 1 to 3; install a newer m2l",
        ),
        (lambda m: m.update(schema_version=0), BundleTooNew, "export the bundle again"),
        (lambda m: m.update(schema="other"), BundleDamaged, "has schema 'other'"),
        (lambda m: m.pop("schema"), BundleDamaged, "not a bundle's manifest"),
        (lambda m: m.pop("golden"), BundleDamaged, "missing required field `golden`"),
        (lambda m: m.update(surprise=1), BundleDamaged, "unknown field `surprise`"),
        (lambda m: m.update(image_size=[256]), BundleDamaged, r"\$.image_size"),
        (lambda m: m.update(image_size=[256, 99_999]), BundleDamaged, r"\$.image_size"),
        (lambda m: m.update(image_size=[128, 128]), BundleDamaged, r"takes one uint8 mask"),
        (lambda m: m.update(models=[]), BundleDamaged, r"\$.models"),
        (
            lambda m: m["inputs"][0].update(role="depth"),
            BundleTooNew,
            "'depth'; this m2l can supply mask, appearance",
        ),
        (lambda m: m["inputs"][0].update(dtype="float32"), BundleDamaged, "takes one uint8 mask"),
        (lambda m: m["inputs"].append(dict(m["inputs"][0], name="b")), BundleDamaged, "takes one uint8 mask"),
        (lambda m: m["outputs"][0].update(role="depth"), BundleDamaged, "takes one uint8 mask"),
        (lambda m: m["models"][0].update(format="pickle"), BundleDamaged, r"\$.models\[0\].format"),
        (lambda m: m["models"][0]["file"].update(size_bytes=1 << 40), BundleDamaged, r"\$.models\[0\].file.size_bytes"),
        (lambda m: m["models"][0]["file"].update(size_bytes=-1), BundleDamaged, r"\$.models\[0\].file.size_bytes"),
        (
            lambda m: m["models"][0]["file"].update(size_bytes=12),
            BundleDamaged,
            r"has 22\d,\d+ bytes, the manifest says 12",
        ),
        (lambda m: m["models"][0]["file"].update(sha256="0" * 63), BundleDamaged, r"\$.models\[0\].file.sha256"),
        (lambda m: m["resampling"].update(filter="nearest"), BundleDamaged, r"\$.resampling.filter"),
        (lambda m: m["models"][0].update(precision="fp64"), BundleDamaged, r"\$.models\[0\].precision"),
        (lambda m: m["models"][0].update(engines=[]), BundleDamaged, r"\$.models\[0\].engines"),
        (
            lambda m: m["models"][0].update(weights="int8"),
            BundleDamaged,
            "has weights in int8 for the precision fp32; int8 weights and the precision int8 go together",
        ),
        (
            lambda m: m["models"].append(m["models"][0] | {"precision": "int8"}),
            BundleDamaged,
            "has weights in fp32 for the precision int8",
        ),
        (
            lambda m: m["models"][0].update(float_layers=["ups.0"]),
            BundleDamaged,
            "lists layers left in float, which only int8 has; its precision is fp32",
        ),
        (
            lambda m: m["models"].append(m["models"][0] | {"engines": ["theirs", "onnxruntime"]}),
            BundleDamaged,
            "two models for the same engine and precision",
        ),
        (set_path("../golden.npz"), BundleDamaged, "a path inside the folder is expected"),
        (set_path("/etc/passwd"), BundleDamaged, "a path inside the folder is expected"),
        (set_path("a/../golden.npz"), BundleDamaged, "a path inside the folder is expected"),
        (set_path("./golden.npz"), BundleDamaged, "a path inside the folder is expected"),
        (set_path("a\\golden.npz"), BundleDamaged, "a path inside the folder is expected"),
        (set_path("C:golden.npz"), BundleDamaged, "a path inside the folder is expected"),
        (set_path("golden\n.npz"), BundleDamaged, "a path inside the folder is expected"),
        (set_path("manifest.json"), BundleDamaged, "a path inside the folder is expected"),
        (set_path(""), BundleDamaged, "a path inside the folder is expected"),
        (set_path("MODEL_CARD.md"), BundleDamaged, "lists a file twice"),
        (set_path("absent.npz"), BundleDamaged, "absent.npz cannot be read: No such file"),
    ],
)
def test_bundle__manifests_that_are_refused(
    bundle_copy: Path, change: Change, error: type[BundleError], message: str, m2l: CommandLine
) -> None:
    edit(bundle_copy, change)
    with pytest.raises(error, match=message):
        open_bundle(bundle_copy)
    outcome = m2l("inspect", bundle_copy)
    assert outcome.code == 1
    assert outcome.err.startswith("m2l: error: ")
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 1}', b"[" * 100_000, b" " * (MAX_MANIFEST_BYTES + 1)],
    ids=["nothing", "open", "list", "null", "not UTF-8", "type", "deep", "long"],
)
def test_bundle__manifests_that_are_no_manifests(bundle_copy: Path, content: bytes) -> None:
    (bundle_copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleDamaged, match="manifest.json"):
        open_bundle(bundle_copy)


@pytest.mark.parametrize("name", ["generator.fp32.onnx", "golden.npz", "MODEL_CARD.md"])
def test_bundle__an_altered_file_is_named(bundle_copy: Path, name: str) -> None:
    content = bytearray((bundle_copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle_copy / name).write_bytes(content)
    with pytest.raises(BundleDamaged, match=f"{name} is not the file the bundle was made with"):
        open_bundle(bundle_copy).check()
    if name.endswith(".onnx"):
        with pytest.raises(BundleDamaged, match="SHA-256"):
            Synthesizer.open(bundle_copy)


@pytest.mark.parametrize("name", ["generator.fp32.onnx", "golden.npz", "MODEL_CARD.md"])
def test_bundle__a_missing_a_linked_and_a_strange_file_are_named(bundle_copy: Path, tmp_path: Path, name: str) -> None:
    (bundle_copy / name).rename(tmp_path / "elsewhere")
    with pytest.raises(BundleDamaged, match=f"{name} cannot be read"):
        open_bundle(bundle_copy)
    (bundle_copy / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleDamaged, match=f"{name} is a symbolic link"):
        open_bundle(bundle_copy)
    (bundle_copy / name).unlink()
    os.mkfifo(bundle_copy / name)
    with pytest.raises(BundleDamaged, match=f"{name} is not a plain file"):
        open_bundle(bundle_copy)


def test_bundle__a_linked_folder_within_the_bundle(bundle_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (bundle_copy / "golden.npz").rename(tmp_path / "outside" / "golden.npz")
    (bundle_copy / "sub").symlink_to(tmp_path / "outside")
    edit(bundle_copy, set_path("sub/golden.npz"))
    with pytest.raises(BundleDamaged, match="sub is a symbolic link"):
        open_bundle(bundle_copy)


def test_bundle__a_linked_manifest(bundle_copy: Path, tmp_path: Path) -> None:
    (bundle_copy / "manifest.json").rename(tmp_path / "m.json")
    (bundle_copy / "manifest.json").symlink_to(tmp_path / "m.json")
    with pytest.raises(BundleDamaged, match="symbolic link"):
        open_bundle(bundle_copy)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # ModelProto.graph (7) . initializer (5) . {name (8), external_data (13)}
        (field(7, field(5, field(8, b"w0") + field(13, b""))), r"keeps weights outside the file \(w0"),
        # ... {data_location (14) = EXTERNAL}
        (field(7, field(5, field(8, b"w1") + varint(14 << 3) + b"\1")), r"\(w1"),
        # graph . node (1) . attribute (5) . t (5)
        (field(7, field(1, field(5, field(5, field(8, b"w2") + field(13, b""))))), r"\(w2"),
        # functions (25) . node (7) . attribute (5) . g (6) . initializer (5)
        (field(25, field(7, field(5, field(6, field(5, field(8, b"w3") + field(13, b"")))))), r"\(w3"),
        (b"no protocol buffer at all", "is not an ONNX model"),
        (field(7, b"x")[:-1], "is not an ONNX model"),
    ],
)
def test_bundle__models_that_are_refused_before_an_engine_sees_them(
    bundle_copy: Path, content: bytes, message: str
) -> None:
    replace_file(bundle_copy, "generator.fp32.onnx", content)
    with pytest.raises(BundleDamaged, match=message):
        Synthesizer.open(bundle_copy)


def test_bundle__a_model_that_the_engine_cannot_load(bundle_copy: Path) -> None:
    replace_file(bundle_copy, "generator.fp32.onnx", varint(1 << 3) + b"\7")
    with pytest.raises(
        BundleDamaged,
        match=r"onnxruntime \S+ cannot load the model: .*; take another --backend, or export the bundle again",
    ):
        Synthesizer.open(bundle_copy)


def test_bundle__a_model_of_operators_that_the_engine_is_too_old_for(bundle_copy: Path) -> None:
    content = (bundle_copy / "generator.fp32.onnx").read_bytes()
    replace_file(bundle_copy, "generator.fp32.onnx", content + field(8, field(1, b"") + varint(2 << 3) + b"\x63"))
    with pytest.raises(EngineError, match=r"^onnxruntime \S+ does not know version 99 of ONNX's operators.*--upgrade"):
        Synthesizer.open(bundle_copy, backend="onnxruntime")


def test_bundle__a_model_with_other_inputs_than_declared(bundle_copy: Path) -> None:
    edit(bundle_copy, lambda m: m["inputs"][0].update(name="segmentation"))
    with pytest.raises(BundleDamaged, match="the manifest declares"):
        Synthesizer.open(bundle_copy)


MASKS, IMAGES = np.zeros((3, 256, 256), np.uint8), np.zeros((3, 256, 256, 3), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK no zip", "is not an .npz"),
        (npz(mask=MASKS), "'image' must be .* got nothing"),
        (npz(mask=MASKS[:2], image=IMAGES), r"'mask' must be \(3, 256, 256\) uint8, got \(2, 256, 256\)"),
        (npz(mask=MASKS, image=IMAGES.astype(np.float32)), "float32"),
        (npz(mask=np.array([{}]), image=IMAGES), "is not an .npz"),  # a pickle inside
        (npz(mask=np.zeros(1 << 28, np.uint8), image=IMAGES), "at most"),
    ],
    ids=["no zip", "missing", "short", "type", "pickle", "bomb"],
)
def test_bundle__golden_pairs_that_are_refused(bundle_copy: Path, content: bytes, message: str) -> None:
    replace_file(bundle_copy, "golden.npz", content)
    with pytest.raises(BundleDamaged, match=message):
        open_bundle(bundle_copy).read_golden()


def parts() -> tuple[Manifest, dict[str, bytes]]:
    bundle = open_bundle(TINY_BUNDLE)
    return bundle.manifest, {entry.path: bundle.read(entry) for entry in bundle.manifest.files}


def test_bundle__an_existing_bundle_is_only_replaced_when_told(bundle_copy: Path) -> None:
    manifest, contents = parts()
    before = (bundle_copy / "manifest.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        write_bundle(bundle_copy, manifest, contents)
    assert (bundle_copy / "manifest.json").read_bytes() == before
    renamed = msgspec.structs.replace(manifest, name="renamed")
    assert write_bundle(bundle_copy, renamed, contents, overwrite=True).manifest.name == "renamed"
    assert os.listdir(bundle_copy.parent) == ["bundle"]


def test_bundle__a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    manifest, contents = parts()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("years")
    with pytest.raises(OutputError, match="is not a bundle, so it is not overwritten"):
        write_bundle(tmp_path / "work", manifest, contents, overwrite=True)
    assert (tmp_path / "work" / "thesis.tex").read_text() == "years"


def test_bundle__a_bundle_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    manifest, contents = parts()
    with pytest.raises(BundleDamaged):
        write_bundle(tmp_path / "b", manifest, contents | {"golden.npz": contents["golden.npz"][:-1] + b"x"})
    bad = msgspec.structs.replace(manifest, model_card=FileEntry.from_content("../card.md", contents["MODEL_CARD.md"]))
    with pytest.raises(BundleDamaged):
        write_bundle(tmp_path / "b", bad, {k if k != "MODEL_CARD.md" else "../card.md": v for k, v in contents.items()})
    with pytest.raises(BundleError, match="lists other files"):
        write_bundle(tmp_path / "b", manifest, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("seed", range(60))
def test_bundle__no_damage_leads_to_anything_but_our_errors(bundle_copy: Path, seed: int) -> None:
    """Random bytes of the manifest changed, dropped or doubled."""
    random = np.random.default_rng(seed)
    content = bytearray((bundle_copy / "manifest.json").read_bytes())
    for _ in range(int(random.integers(1, 4))):
        at = int(random.integers(len(content)))
        kind = random.integers(3)
        if kind == 0:
            content[at] = int(random.integers(256))
        elif kind == 1:
            del content[at : at + int(random.integers(1, 30))]
        else:
            content[at:at] = content[at : at + 20]
    (bundle_copy / "manifest.json").write_bytes(content)
    try:
        open_bundle(bundle_copy).check()
    except M2LError as error:
        assert str(error)
