"""The folder that m2l web writes, and what it says of bad input."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from steered_bundle import steered_bundle

from m2l_runtime.bundle import embedded, open_bundle
from m2l_runtime.errors import BundleError, BundleNotFound, InputError, OutputError
from m2l_runtime.page import SiteOptions, SiteReport, onnxruntime_web, page_files, write_site
from m2l_runtime.page.onnxruntime_web import VERSION, WASM_FILES, WEBGPU_FILES


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An unpacked npm package, of files that are not what they are called."""
    folder = tmp_path / "package"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": VERSION}))
    for name in (*WASM_FILES, *WEBGPU_FILES):
        (folder / "dist" / name).write_bytes(name.encode())
    return folder


def site_of(bundle: Path, tmp_path: Path, package: Path, **options: Any) -> tuple[Path, SiteReport]:
    out = tmp_path / "site"
    return out, write_site(bundle, out, SiteOptions(onnxruntime_web=package, **options))


def listed(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_write_site__writes_what_its_manifest_lists(tmp_path: Path, package: Path) -> None:
    out, report = site_of(embedded.BUNDLE, tmp_path, package)
    entries = {entry["path"]: entry for entry in json.loads((out / "site.json").read_text())["files"]}
    assert listed(out) == {"site.json", *entries}
    assert set(page_files()) <= set(entries)
    for name, entry in entries.items():
        content = (out / name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["size_bytes"], entry["sha256"])
    engine = sum((out / "ort" / name).stat().st_size for name in (*WASM_FILES, *WEBGPU_FILES))
    assert (report.engine_bytes, report.file_count) == (engine, len(entries) + 1)
    assert report.page_bytes == sum(entry["size_bytes"] for entry in entries.values()) - engine


def test_write_site__is_under_15_mb_without_the_engine(tmp_path: Path, package: Path) -> None:
    _, report = site_of(embedded.BUNDLE, tmp_path, package)
    assert report.page_bytes < 15_000_000
    assert report.notes == ()


def test_write_site__holds_the_bundles_own_model_and_table(tmp_path: Path, package: Path) -> None:
    out, _ = site_of(embedded.BUNDLE, tmp_path, package)
    bundle, config = open_bundle(embedded.BUNDLE), json.loads((out / "config.json").read_text())
    name = config["browser"]["model"]["path"]
    assert (out / name).read_bytes() == (embedded.BUNDLE / Path(name).name).read_bytes()
    table = bundle.read_appearances()
    assert bundle.manifest.appearance is not None
    table = table[np.linalg.norm(table[:, :3] - table[:, 6:9], axis=1) >= bundle.manifest.appearance.min_contrast]
    assert len(table) == bundle.manifest.appearance.sampled_count
    content = (out / config["browser"]["appearances"]["path"]).read_bytes()
    np.testing.assert_array_equal(np.frombuffer(content, "<f4", table.size).reshape(table.shape), table)
    deviations = table.astype(np.float64).std(0)
    np.testing.assert_allclose(config["browser"]["appearances"]["deviations"], deviations, rtol=1e-12)


def test_write_site__holds_the_first_golden_pair(tmp_path: Path, package: Path) -> None:
    out, _ = site_of(embedded.BUNDLE, tmp_path, package)
    browser = json.loads((out / "config.json").read_text())["browser"]
    content, at = (out / browser["golden"]["path"]).read_bytes(), 0
    inputs, images = open_bundle(embedded.BUNDLE).read_golden()
    for entry in browser["golden"]["arrays"]:
        array = np.frombuffer(content[at : at + entry["bytes"]], entry["dtype"])
        np.testing.assert_array_equal(array, ({**inputs, "image": images}[entry["name"]][0]).ravel())
        at += entry["bytes"]
    assert at == len(content)
    assert browser["max_level_difference"] == 2  # what the bundle was accepted with


def test_write_site__keeps_nodes_of_more_tensors_than_webgpu_has_buffers_for_on_the_cpu(
    tmp_path: Path, package: Path
) -> None:
    out, _ = site_of(embedded.BUNDLE, tmp_path, package)
    onnx = pytest.importorskip("onnx")
    model = onnx.load(next((out / "model").glob("*.onnx")))
    wide = [node.name for node in model.graph.node if len(node.input) + len(node.output) > 8]
    assert wide
    assert json.loads((out / "config.json").read_text())["browser"]["engine"]["cpu_nodes"] == wide


def test_write_site__can_leave_webgpu_out(tmp_path: Path, package: Path) -> None:
    out, _ = site_of(embedded.BUNDLE, tmp_path, package, webgpu=False)
    assert {name for name in listed(out) if name.startswith("ort/")} == {f"ort/{name}" for name in WASM_FILES}
    assert json.loads((out / "config.json").read_text())["browser"]["engine"]["webgpu"] is None


def test_write_site__takes_a_bundle_of_the_mask_alone(tmp_path: Path, package: Path) -> None:
    steered_bundle(tmp_path / "plain", ())
    out, _ = site_of(tmp_path / "plain", tmp_path, package)
    assert json.loads((out / "config.json").read_text())["browser"]["appearances"] is None
    assert not (out / "model" / "appearances.bin").exists()


def test_write_site__replaces_a_site_alone_and_only_when_told(tmp_path: Path, package: Path) -> None:
    out, _ = site_of(embedded.BUNDLE, tmp_path, package)
    (out / "old").touch()
    with pytest.raises(OutputError, match="exists already"):
        site_of(embedded.BUNDLE, tmp_path, package)
    site_of(embedded.BUNDLE, tmp_path, package, overwrite=True)
    assert not (out / "old").exists()
    (out / "site.json").write_text("[" * 100_000)
    with pytest.raises(OutputError, match="not a page"):
        site_of(embedded.BUNDLE, tmp_path, package, overwrite=True)
    assert (out / "index.html").exists()


def test_write_site__leaves_nothing_where_the_package_is_wrong(tmp_path: Path, package: Path) -> None:
    (package / "dist" / WASM_FILES[2]).unlink()
    with pytest.raises(InputError, match="npm pack onnxruntime-web"):
        site_of(embedded.BUNDLE, tmp_path, package)
    (package / "package.json").write_text(json.dumps({"name": "left-pad", "version": "1"}))
    with pytest.raises(InputError, match="left-pad"):
        site_of(embedded.BUNDLE, tmp_path, package)
    (package / "package.json").write_text("no JSON")
    with pytest.raises(InputError, match="not an unpacked npm package"):
        site_of(embedded.BUNDLE, tmp_path, package)
    assert not (tmp_path / "site").exists()


def test_write_site__notes_another_version(tmp_path: Path, package: Path) -> None:
    (package / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": "1.99.0"}))
    _, report = site_of(embedded.BUNDLE, tmp_path, package)
    assert "1.99.0" in report.notes[0]


def test_write_site__refuses_what_is_no_bundle(tmp_path: Path, package: Path) -> None:
    with pytest.raises(BundleNotFound):
        site_of(tmp_path, tmp_path, package)


def test_write_site__refuses_a_bundle_without_a_model_for_onnxruntime(tmp_path: Path, package: Path) -> None:
    bundle = steered_bundle(tmp_path / "other", ())
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["models"][0]["engines"] = ["openvino"]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="no model of fp32 precision for onnxruntime"):
        site_of(bundle.path, tmp_path, package)


def packed(package: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(package, "package")
    return content.getvalue()


@pytest.fixture
def registry(tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry on this machine that has the package; yields its file."""
    file = tmp_path / "registry" / "onnxruntime-web" / "-" / f"onnxruntime-web-{VERSION}.tgz"
    file.parent.mkdir(parents=True)
    file.write_bytes(packed(package))
    digest = base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()
    monkeypatch.setattr(onnxruntime_web, "INTEGRITY", f"sha512-{digest}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("npm_config_registry", raising=False)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "registry"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
        yield file
        server.shutdown()
        thread.join()


def test_fetch_package__gets_the_pinned_package_once(registry: Path) -> None:
    first = onnxruntime_web.fetch_package(WASM_FILES)
    assert {name: content.decode() for name, content in first.files.items()} == {name: name for name in WASM_FILES}
    registry.unlink()
    assert onnxruntime_web.fetch_package(WASM_FILES) == first


def test_fetch_package__refuses_another_package(registry: Path, tmp_path: Path) -> None:
    registry.write_bytes(registry.read_bytes() + b"\0")
    with pytest.raises(InputError, match="another SHA-512"):
        onnxruntime_web.fetch_package(WASM_FILES)
    assert not (tmp_path / "cache" / "m2l").exists()


def test_fetch_package__mends_a_damaged_cache(registry: Path, tmp_path: Path) -> None:
    onnxruntime_web.fetch_package(WASM_FILES)
    (kept,) = (tmp_path / "cache" / "m2l").iterdir()
    kept.write_bytes(b"damaged")
    assert onnxruntime_web.fetch_package(WASM_FILES).files
    assert kept.read_bytes() == registry.read_bytes()


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "file:///etc", "nowhere"])
def test_fetch_package__says_what_to_do_without_a_registry(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", address)
    with pytest.raises(InputError, match=f"npm pack onnxruntime-web@{VERSION}"):
        onnxruntime_web.fetch_package(WASM_FILES)


def test_m2l_web__writes_and_tells(m2l: CommandLine, tmp_path: Path, package: Path) -> None:
    out = tmp_path / "site"
    told = m2l("web", "embedded", out, "--onnxruntime-web", package)
    assert told.code == 0, told
    assert f"in {out}" in told.out
    refused = m2l("web", "embedded", out, "--onnxruntime-web", package)
    assert (refused.code, refused.out) == (1, "")
    assert "--overwrite" in refused.err
    again = m2l("web", "embedded", out, "--onnxruntime-web", package, "--overwrite", "--no-webgpu", "--json")
    assert json.loads(again.out)["file_count"] == len(listed(out))


def test_m2l_web__says_so_where_there_is_no_bundle(m2l: CommandLine, tmp_path: Path, package: Path) -> None:
    told = m2l("web", tmp_path / "none", tmp_path / "site", "--onnxruntime-web", package)
    assert told.code == 1
    assert "does not exist" in told.err
