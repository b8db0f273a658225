"""Requests of people and of the inference protocol get the images of `m2l synth`; others get words."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import CommandLine
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from service import pixels, png
from starlette.testclient import TestClient
from steered_bundle import steered_bundle
from support import TINY_BUNDLE, disc, save

from m2l_runtime import Synthesizer
from m2l_runtime.errors import BundleDamaged, EngineError
from m2l_runtime.output.encoding import FAKE
from m2l_runtime.page import page_config, page_files
from m2l_runtime.serve import ServeOptions, create_app
from m2l_runtime.serve.app import reload_bundle, workshop_of
from m2l_runtime.serve.guard import API_POLICY, host_name

MASK = disc()
PNG = png(MASK)


def client_of(options: ServeOptions | None = None, synthesizer: Synthesizer | None = None, **more: Any) -> TestClient:
    app = create_app(synthesizer or Synthesizer.open(backend="fake"), options, **more)
    return TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=True)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of() as one:
        yield one


def error_of(response: Any) -> str:
    assert response.headers["content-type"] == "application/json", response
    assert list(response.json()) == ["error"]
    assert "Traceback" not in response.text
    text: str = response.json()["error"]
    return text


def infer(client: TestClient, masks: npt.NDArray[np.uint8], *inputs: Mapping[str, Any], **more: Any) -> Any:
    """Ask for inference with everything in JSON."""
    mask = {"name": "mask", "shape": list(masks.shape), "datatype": "UINT8", "data": masks.ravel().tolist()}
    return client.post("/v2/models/m2l/infer", json={"inputs": [mask, *inputs], **more})


def outputs_of(response: Any) -> dict[str, npt.NDArray[Any]]:
    assert response.status_code == 200, response.text[:300]
    length = response.headers.get("inference-header-content-length")
    head = json.loads(response.content if length is None else response.content[: int(length)])
    at, outputs = int(length or 0), {}
    dtypes = {"UINT8": "<u1", "UINT64": "<u8", "FP32": "<f4"}
    for one in head["outputs"]:
        size = one.get("parameters", {}).get("binary_data_size")
        dtype = np.dtype(dtypes[one["datatype"]])
        values = (
            np.array(one["data"], dtype) if size is None else np.frombuffer(response.content[at : at + size], dtype)
        )
        at += size or 0
        outputs[one["name"]] = values.reshape(one["shape"])
    assert length is None or at == len(response.content)
    return outputs


# What people ask


@pytest.mark.parametrize(
    ("query", "arguments", "suffix"),
    [
        ("", (), "png"),
        ("?seed=7", ("--seed", 7), "png"),
        ("?seed=18446744073709551615&appearance=lesion_L%3D35%2Cita%3Dtan", ("--appearance",), "png"),
        ("?format=jpeg&quality=90", ("--quality", 90), "jpg"),
        ("?format=webp&seed=3", ("--seed", 3), "webp"),
    ],
)
def test_synthesize__gives_the_bytes_of_m2l_synth(
    client: TestClient, m2l: CommandLine, tmp_path: Path, query: str, arguments: tuple[Any, ...], suffix: str
) -> None:
    if arguments == ("--appearance",):
        arguments = ("--appearance", "lesion_L=35,ita=tan", "--seed", 2**64 - 1)
    mask = save(tmp_path / "mask.png", MASK)
    outcome = m2l("synth", mask, tmp_path / f"out.{suffix}", "--backend", "fake", *arguments)
    assert outcome.code == 0, outcome.err
    answer = client.post(f"/synthesize{query}", content=mask.read_bytes())
    assert answer.status_code == 200, answer.text
    assert answer.content == (tmp_path / f"out.{suffix}").read_bytes()
    assert answer.headers["content-type"] == {"jpg": "image/jpeg"}.get(suffix, f"image/{suffix}")


def test_synthesize__gives_the_bytes_of_m2l_synth_on_an_engine(m2l: CommandLine, tmp_path: Path) -> None:
    """Of named masks in a folder, and of a model that is run."""
    (tmp_path / "masks").mkdir()
    for name, radius in (("first", 40.0), ("second", 70.0)):
        save(tmp_path / "masks" / f"{name}.png", disc(radius=radius))
    arguments = ("--bundle", TINY_BUNDLE, "--backend", "onnxruntime", "--device", "cpu")
    assert m2l("synth", tmp_path / "masks", tmp_path / "out", *arguments).code == 0
    synthesizer = Synthesizer.open(TINY_BUNDLE, backend="onnxruntime", device="cpu", streams=None)
    with client_of(synthesizer=synthesizer) as client:
        for name in ("first", "second"):
            answer = client.post(f"/synthesize?name={name}", content=(tmp_path / "masks" / f"{name}.png").read_bytes())
            assert answer.content == (tmp_path / "out" / f"{name}.png").read_bytes()


def test_synthesize__samples_are_those_of_m2l_synth(client: TestClient, m2l: CommandLine, tmp_path: Path) -> None:
    mask = save(tmp_path / "nevus.png", MASK)
    assert m2l("synth", mask, tmp_path / "out", "--backend", "fake", "--samples", 3, "--seed", 5).code == 0
    for sample in (1, 2, 3):
        answer = client.post(f"/synthesize?name=nevus&seed=5&sample={sample}", content=mask.read_bytes())
        assert answer.content == (tmp_path / "out" / f"nevus_sample{sample}.png").read_bytes()


def test_synthesize__headers_tell_what_was_used(client: TestClient) -> None:
    answer = client.post(
        "/synthesize", params={"seed": 9, "name": "a ü", "appearance": '{"lesion_L": 35}'}, content=PNG
    )
    text = Image.open(io.BytesIO(answer.content)).text  # type: ignore[attr-defined]
    assert answer.headers["m2l-seed"] == "9"
    assert answer.headers["m2l-image-seed"] == text["m2l-seed"]
    assert answer.headers["m2l-appearance"] == text["m2l-appearance"]
    assert "lesion_L=35.0," in text["m2l-appearance"]
    assert answer.headers["m2l-name"] == "a %C3%BC"
    assert answer.headers["m2l-size"] == "256x256"
    assert answer.headers["m2l-notice"] == text["Description"] == FAKE
    assert "m2l-mask-note" not in answer.headers
    assert client.post("/synthesize", content=png(MASK * 0)).headers["m2l-mask-note"] == "empty"


def test_synthesize__takes_masks_of_other_sizes_kinds_and_encodings(client: TestClient) -> None:
    expected = pixels(client.post("/synthesize", content=PNG).content)
    bmp = io.BytesIO()
    Image.fromarray(MASK).convert("1").save(bmp, "BMP")
    assert np.array_equal(pixels(client.post("/synthesize", content=bmp.getvalue()).content), expected)
    for encoding, content in (("gzip", gzip.compress(PNG)), ("deflate", zlib.compress(PNG))):
        answer = client.post("/synthesize", content=content, headers={"content-encoding": encoding})
        assert np.array_equal(pixels(answer.content), expected)
    assert client.post("/synthesize", content=png(disc(100, 20, 50, 50))).status_code == 200


BAD_QUERIES = {
    "seed=-1": "seed must be a whole number from 0 to 2",
    "seed=18446744073709551616": "below 2^64",
    "seed=" + "9" * 5000: "whole number",
    "seed=1.5": "whole number",
    "seed=%D9%A1": "whole number",
    "seed=": "whole number",
    "seed=1&seed=2": "twice",
    "sample=0": "between 1 and",
    "sample=1000001": "between 1 and",
    "name=": "1 to 255 characters",
    "name=" + "x" * 256: "1 to 255 characters",
    "appearance=lesion_Q%3D3": "appearances have no 'lesion_Q'",
    "appearance=lesion_L%3D1e9": "lesion_L must be between",
    "appearance=lesion_L%3Dnan": "lesion_L must be between",
    "appearance=lesion_L%3D%D9%A3%D9%A5": "lesion_L must be a number",
    "appearance=lesion_L%3D3_5": "lesion_L must be a number",
    "appearance=lesion_L%3D35,lesion_L%3D36": "lesion_L is given twice",
    "appearance=%7B%22lesion_L%22%3A35,%22lesion_L%22%3A36%7D": "lesion_L is given twice",
    "appearance=/etc/passwd": "NAME=NUMBER",
    "appearance=photo.jpg": "NAME=NUMBER",
    "appearance=%7B%22lesion_L%22%3A%22a%22%7D": "numbers by name",
    "appearance=%7B%22lesion_L%22%3A1e999%7D": "appearance",
    "appearance=%7B" + "%5B" * 900: "numbers by name",
    "appearance=" + "x" * 5000: "at most 4,096 characters",
    "format=gif": "format must be one of png, jpeg, jpg, webp, got 'gif'",
    "format=npz": "format must be one of",
    "quality=90": "no effect on png",
    "format=jpeg&quality=0": "between 1 and 100",
    "format=jpeg&quality=101": "between 1 and 100",
    "colour=red": "the query has 'colour'",
    "&".join(f"a{n}=1" for n in range(100)): "query",
}


@pytest.mark.parametrize(("query", "message"), BAD_QUERIES.items(), ids=lambda text: text[:40])
def test_synthesize__a_wrong_query_is_told_in_words(client: TestClient, query: str, message: str) -> None:
    answer = client.post(f"/synthesize?{query}", content=PNG)
    assert answer.status_code == 400
    assert message in error_of(answer)
    assert len(answer.content) < 3000


def bomb(side: int) -> bytes:
    """A few hundred bytes that ask for side times side pixels."""
    buffer = io.BytesIO()
    Image.new("1", (16, 16)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def photograph() -> bytes:
    return png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


BAD_MASKS = {
    "nothing": (b"", "empty (0 bytes)"),
    "text": (b"hello", "is not a PNG"),
    "cut off": (PNG[:100], "truncated"),
    "a photograph": (photograph(), "photograph"),
    "60,000 pixels a side": (bomb(60_000), "too large; at most 8,000,000 pixels"),
    "more pixels than are taken here": (bomb(3000), "too large: 3,000 x 3,000 pixels; at most 8,000,000"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a PNG"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is not a PNG"),
}


@pytest.mark.parametrize(("content", "message"), BAD_MASKS.values(), ids=BAD_MASKS)
def test_synthesize__what_is_no_mask_is_told_in_words(client: TestClient, content: bytes, message: str) -> None:
    answer = client.post("/synthesize", content=content)
    assert answer.status_code == 400
    assert message in error_of(answer)


def test_synthesize__other_bodies_and_encodings_are_refused(client: TestClient) -> None:
    form = client.post("/synthesize", files={"mask": PNG})
    assert (form.status_code, "the picture itself" in error_of(form)) == (415, True)
    packed = client.post("/synthesize", content=PNG, headers={"content-encoding": "br"})
    assert (packed.status_code, "gzip" in error_of(packed)) == (415, True)
    damaged = client.post("/synthesize", content=PNG, headers={"content-encoding": "gzip"})
    assert (damaged.status_code, "is no gzip" in error_of(damaged)) == (400, True)
    twice = client.post("/synthesize", content=gzip.compress(PNG), headers=[("content-encoding", "gzip")] * 2)
    assert (twice.status_code, "'gzip, gzip'" in error_of(twice)) == (415, True)
    zeros = client.post("/synthesize", content=gzip.compress(bytes(9 << 20)), headers={"content-encoding": "gzip"})
    assert (zeros.status_code, "unpacked" in error_of(zeros)) == (413, True)
    cut = client.post("/synthesize", content=gzip.compress(PNG)[:-9], headers={"content-encoding": "gzip"})
    assert (cut.status_code, "cut off" in error_of(cut)) == (400, True)


def test_synthesize__a_generator_of_masks_alone_says_what_it_does_not_take() -> None:
    synthesizer = Synthesizer.open(TINY_BUNDLE, backend="fake")
    with client_of(synthesizer=synthesizer) as client:
        assert client.post("/synthesize?seed=4", content=PNG).status_code == 200
        assert "takes no appearance" in error_of(client.post("/synthesize?appearance=lesion_L%3D35", content=PNG))
        assert "takes the mask" in error_of(client.post("/synthesize?sample=2", content=PNG))
        assert "m2l-seed" not in client.post("/synthesize", content=PNG).headers
        seeds = {"name": "seeds", "shape": [1], "datatype": "UINT64", "data": [1]}
        assert "inputs has 'seeds'" in error_of(infer(client, MASK[None], seeds))
        assert list(outputs_of(infer(client, MASK[None]))) == ["image"]


# The inference protocol


def test_infer__gives_the_pixels_of_synthesize(client: TestClient) -> None:
    image = outputs_of(infer(client, MASK[None], parameters={"seed": 7}))["image"]
    expected = pixels(client.post("/synthesize?seed=7", content=PNG).content)
    assert np.array_equal(image[0], expected)


def test_infer__samples_and_names_are_those_of_synthesize(client: TestClient) -> None:
    masks = np.stack([MASK, disc(radius=30.0)])
    parameters = {"seed": "7", "samples": 2, "names": "a,b", "appearance": "lesion_L=40", "binary_data_output": True}
    outputs = outputs_of(infer(client, masks, parameters=parameters, id="x"))
    assert outputs["image"].shape == (4, 256, 256, 3)
    for place, (name, sample) in enumerate((("a", 1), ("a", 2), ("b", 1), ("b", 2))):
        query: dict[str, str | int] = {"seed": 7, "name": name, "sample": sample, "appearance": "lesion_L=40"}
        answer = client.post("/synthesize", params=query, content=png(masks[place // 2]))
        assert np.array_equal(outputs["image"][place], pixels(answer.content))
        assert str(outputs["seeds"][place]) == answer.headers["m2l-image-seed"]
        numbers = dict(one.split("=") for one in answer.headers["m2l-appearance"].split(","))
        assert np.allclose(outputs["appearance"][place], [float(one) for one in numbers.values()], atol=1e-3)


def test_infer__seeds_and_appearances_as_tensors_are_those_of_a_call(client: TestClient) -> None:
    with Synthesizer.open(backend="fake") as synth:
        assert synth.extra.table is not None
        rows = np.stack([synth.extra.table[3], synth.extra.table[9]])
        expected = synth(np.stack([MASK, MASK]), seeds=[5, 2**64 - 1], appearances=rows)
        other = synth(np.stack([MASK, MASK]), seeds=[5, 6])
    seeds = {"name": "seeds", "shape": [2], "datatype": "UINT64", "data": [5, 2**64 - 1]}
    given = {"name": "appearance", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    answer = outputs_of(infer(client, np.stack([MASK, MASK]), seeds, given))
    assert np.array_equal(answer["image"], expected)
    assert np.array_equal(answer["appearance"], rows)
    seeds = {**seeds, "data": [5, 6]}
    assert np.array_equal(outputs_of(infer(client, np.stack([MASK, MASK]), seeds))["image"], other)


def test_infer__outputs_are_those_asked_for_each_as_asked(client: TestClient) -> None:
    asked = [{"name": "seeds"}, {"name": "image", "parameters": {"binary_data": True}}]
    answer = infer(client, MASK[None], outputs=asked, id="some id")
    assert list(outputs_of(answer)) == ["seeds", "image"]
    head = json.loads(answer.content[: int(answer.headers["inference-header-content-length"])])
    assert (head["id"], head["model_name"], head["model_version"]) == ("some id", "m2l", "1")
    assert head["parameters"]["notice"] == FAKE


BAD_INFERENCE: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"parameters": {"seed": -1}}, "the seed must be at least 0"),
    "seed of a fraction": ({"parameters": {"seed": 1.5}}, "seed must be a whole number"),
    "seed of a flag": ({"parameters": {"seed": True}}, "seed must be a whole number"),
    "samples": ({"parameters": {"samples": 0}}, "samples must be between"),
    "many samples": ({"parameters": {"samples": 17}}, "1 to 16 images"),
    "names": ({"parameters": {"names": "a,b"}}, "names must be 1"),
    "names of a number": ({"parameters": {"names": 3}}, "names are text"),
    "appearance": ({"parameters": {"appearance": "hair"}}, "NAME=NUMBER"),
    "appearance of a list": ({"parameters": {"appearance": [1]}}, "an appearance is text"),
    "unknown": ({"parameters": {"priority": 1}}, "parameters has 'priority'"),
    "output": ({"outputs": [{"name": "video"}]}, "outputs has 'video'"),
    "output twice": ({"outputs": [{"name": "image"}, {"name": "image"}]}, "twice"),
    "classes": ({"outputs": [{"name": "image", "parameters": {"classification": 3}}]}, "'classification'"),
    "flag": ({"parameters": {"binary_data_output": "yes"}}, "must be true or false"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_INFERENCE.values(), ids=BAD_INFERENCE)
def test_infer__a_wrong_request_is_told_in_words(client: TestClient, changes: dict[str, Any], message: str) -> None:
    answer = infer(client, MASK[None], **changes)
    assert answer.status_code == 400
    assert message in error_of(answer)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([{"name": "masks", "shape": [1], "datatype": "UINT8", "data": [1]}], "inputs has 'masks'"),
        ([{"name": "mask", "shape": [1], "datatype": "UINT8", "data": [1]}], "must have the shape [-1, 256, 256]"),
        ([{"name": "mask", "shape": [0, 256, 256], "datatype": "UINT8", "data": []}], "1 to 16 images, got 0"),
        ([{"name": "mask", "shape": [1], "datatype": "FP32", "data": [1]}], "must be UINT8"),
        ([{"name": "seeds", "shape": [1], "datatype": "UINT64", "data": [1]}], "has no input mask"),
    ],
)
def test_infer__wrong_inputs_are_told_in_words(client: TestClient, inputs: list[Any], message: str) -> None:
    answer = client.post("/v2/models/m2l/infer", json={"inputs": inputs})
    assert answer.status_code == 400
    assert message in error_of(answer)


def test_infer__a_mask_of_0_and_1_and_appearances_twice_are_refused(client: TestClient) -> None:
    assert "masks * 255" in error_of(infer(client, MASK[None] // 255))
    row = {"name": "appearance", "shape": [1, 34], "datatype": "FP32", "data": [0.0] * 34}
    answer = infer(client, MASK[None], row, parameters={"appearance": "hair=0"})
    assert "either a parameter or an input" in error_of(answer)
    seeds = {"name": "seeds", "shape": [1], "datatype": "UINT64", "data": [1]}
    assert "leave nothing to seed" in error_of(infer(client, MASK[None], seeds, parameters={"seed": 1}))


def test_protocol__metadata_tells_what_infer_takes_and_gives(client: TestClient) -> None:
    described = client.get("/v2/models/m2l/versions/1").json()
    assert described == client.get("/v2/models/m2l").json()
    assert [(one["name"], one["datatype"]) for one in described["inputs"]] == [
        ("mask", "UINT8"),
        ("seeds", "UINT64"),
        ("appearance", "FP32"),
    ]
    outputs = outputs_of(infer(client, MASK[None]))
    for one in described["outputs"]:
        assert list(outputs[one["name"]].shape[1:]) == one["shape"][1:]
    assert client.get("/v2/models/m2l/config").json()["max_batch_size"] == 16
    assert client.get("/v2").json()["extensions"][0] == "binary_tensor_data"
    assert client.post("/v2/repository/index").json()[0]["state"] == "READY"
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/m2l/ready"):
        assert client.get(path).status_code == 200


def test_protocol__statistics_count_what_was_inferred(client: TestClient) -> None:
    def stats() -> dict[str, Any]:
        (one,) = client.get("/v2/models/m2l/stats").json()["model_stats"]
        return dict(one)

    before = stats()
    outputs_of(infer(client, MASK[None], parameters={"samples": 3}))
    infer(client, MASK[None], parameters={"samples": 0})
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 3
    for kind in ("success", "fail"):
        assert after["inference_stats"][kind]["count"] - before["inference_stats"][kind]["count"] == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/m2l/versions/2", 404),
        ("GET", "/v2/models/..%2f..%2fetc", 404),
        ("GET", "/..%2f..%2fetc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "//etc/passwd", 404),
        ("GET", "/v2/", 404),
        ("GET", "/synthesize", 405),
        ("DELETE", "/v2", 405),
        ("TRACE", "/v2", 405),
        ("GET", "/v2/models/m2l/infer", 405),
    ],
)
def test_service__other_addresses_and_methods_get_words(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert error_of(answer)
    assert status != 405 or answer.headers["allow"]


# Who may ask


def test_guard__every_answer_has_the_headers_of_a_strict_service(client: TestClient) -> None:
    for answer in (client.get("/v2"), client.get("/absent"), client.post("/synthesize", content=b"")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == API_POLICY
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "", "[::2]:80", "a@localhost"]
)
def test_guard__another_host_is_refused_and_so_is_dns_rebinding(client: TestClient, host: str) -> None:
    answer = client.get("/v2", headers={"host": host})
    assert answer.status_code == 421
    assert "no" in error_of(answer)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:80", "[::1]:8000", "[::1]"])
def test_guard__names_of_this_machine_are_taken_with_any_port(client: TestClient, host: str) -> None:
    assert client.get("/v2", headers={"host": host}).status_code == 200


def test_host_name__keeps_what_is_no_port() -> None:
    assert host_name("localhost:80:90") == "localhost:80"
    assert host_name("::1") == "::1"
    assert host_name("name:port") == "name:port"
    assert host_name("Name:") == "name"


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9999", "https://localhost"])
def test_guard__pages_of_other_sites_may_not_ask(client: TestClient, origin: str) -> None:
    answer = client.post("/synthesize", content=PNG, headers={"origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert client.options("/synthesize", headers={"origin": origin}).status_code == 403


def test_guard__pages_of_its_own_may(client: TestClient) -> None:
    answer = client.post("/synthesize", content=PNG, headers={"origin": "http://localhost:8000"})
    assert answer.status_code == 200


def test_guard__origins_that_are_listed_may_and_read_the_headers() -> None:
    with client_of(ServeOptions(allowed_origins=("https://site.example",))) as client:
        origin = {"origin": "https://site.example"}
        before = client.options("/synthesize", headers={**origin, "access-control-request-method": "POST"})
        assert before.status_code == 204
        assert before.headers["access-control-allow-origin"] == "https://site.example"
        answer = client.post("/synthesize", content=PNG, headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://site.example"
        assert "M2L-Seed" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Origin"
        assert client.get("/v2", headers={"origin": "https://other.example"}).status_code == 403
        assert "access-control-allow-origin" not in client.get("/v2").headers


TOKEN = "correct-horse-battery-staple"  # noqa: S105 - of tests


@pytest.mark.parametrize(
    "given",
    [
        None,
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Token {TOKEN}",
        "Basic !!!",
        "Basic " + base64.b64encode(b"me:wrong").decode(),
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
    ],
)
def test_guard__without_the_token_nothing_but_health_is_answered(given: str | None) -> None:
    with client_of(ServeOptions(token=TOKEN)) as client:
        headers = {} if given is None else {"authorization": given}
        for path in ("/v2", "/metrics", "/openapi.json", "/absent"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert "Bearer" in answer.headers["www-authenticate"]
            assert TOKEN not in answer.text
        assert client.post("/synthesize", content=PNG, headers=headers).status_code == 401
        assert client.get("/v2/health/ready", headers=headers).status_code == 200


def test_guard__the_token_is_taken_as_bearer_and_as_password() -> None:
    with client_of(ServeOptions(token=TOKEN)) as client:
        for given in (
            f"Bearer {TOKEN}",
            f"bearer {TOKEN}",
            "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode(),
        ):
            assert client.get("/v2", headers={"authorization": given}).status_code == 200


# Under load


class Held:
    """A backend that holds each call until it is let go."""

    def __init__(self, synthesizer: Synthesizer) -> None:
        backend = synthesizer._backend
        assert backend is not None
        self.settings, self.notes = backend.settings, ()
        self.gate, self.has_begun, self.calls, self.error = threading.Event(), threading.Event(), 0, False
        self._backend = backend
        synthesizer._backend = self

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
        self.calls += 1
        self.has_begun.set()
        assert self.gate.wait(30)
        if self.error:
            raise EngineError("the device is gone")
        return self._backend.run(inputs)

    def close(self) -> None:
        self._backend.close()


@pytest.fixture
def held() -> Iterator[tuple[TestClient, Held]]:
    synthesizer = Synthesizer.open(backend="fake")
    with client_of(ServeOptions(max_requests=2, max_images=2), synthesizer) as client:
        backend = Held(synthesizer)
        try:
            yield client, backend
        finally:
            backend.gate.set()


def in_thread(function: Any) -> tuple[threading.Thread, list[Any]]:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(function()), daemon=True)
    thread.start()
    return thread, answers


def test_service__too_many_requests_are_refused_and_later_taken(held: tuple[TestClient, Held]) -> None:
    client, backend = held
    threads = [in_thread(lambda: client.post("/synthesize", content=PNG)) for _ in range(2)]
    workshop = workshop_of(client.app)  # type: ignore[arg-type]
    assert backend.has_begun.wait(30)
    while workshop.metrics.value("m2l_requests_under_way") < 2:
        pass
    refused = client.post("/synthesize", content=PNG)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "2 requests are under way" in error_of(refused)
    assert client.get("/v2").status_code == 200
    backend.gate.set()
    for thread, answers in threads:
        thread.join(30)
        assert answers[0].status_code == 200
    assert client.post("/synthesize", content=PNG).status_code == 200
    assert workshop.metrics.value("m2l_refused_total", reason="requests") == 1


def test_service__an_engine_that_fails_is_told_and_not_the_end(held: tuple[TestClient, Held]) -> None:
    client, backend = held
    backend.gate.set()
    backend.error = True
    answer = client.post("/synthesize", content=PNG)
    assert (answer.status_code, error_of(answer)) == (500, "the engine failed: the device is gone")
    backend.error = False
    assert client.post("/synthesize", content=PNG).status_code == 200
    assert workshop_of(client.app).metrics.value("m2l_engine_errors_total") == 1  # type: ignore[arg-type]


def test_service__images_that_do_not_come_in_time_are_told() -> None:
    synthesizer = Synthesizer.open(backend="fake")
    with client_of(ServeOptions(request_timeout_s=0.05), synthesizer) as client:
        backend = Held(synthesizer)
        answer = client.post("/synthesize", content=PNG)
        backend.gate.set()
        assert answer.status_code == 503
        assert "no image came within 0.05 s" in error_of(answer)


def test_service__what_nobody_foresaw_is_an_error_without_its_words(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def surprise(*_: object) -> None:
        raise ZeroDivisionError("secret words")

    monkeypatch.setattr("m2l_runtime.serve.pictures.encode_image", surprise)
    answer = client.post("/synthesize", content=PNG)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert error_of(answer)
    assert [one.m2l_fields["error"] for one in caplog.records if one.message == "unexpected"] == ["ZeroDivisionError"]  # type: ignore[attr-defined]


def test_metrics__count_requests_by_route_and_images(client: TestClient) -> None:
    metrics = workshop_of(client.app).metrics  # type: ignore[arg-type]

    def counts() -> list[float]:
        asked = {"route": "/synthesize", "method": "POST"}
        return [
            metrics.value("m2l_requests_total", **asked, status="200"),
            metrics.value("m2l_requests_total", **asked, status="400"),
            metrics.value("m2l_requests_total", route="other", method="GET", status="404"),
            metrics.value("m2l_images_total"),
        ]

    before = counts()
    client.post("/synthesize?seed=1", content=PNG)
    client.post("/synthesize?seed=x", content=PNG)
    client.get("/some/secret/address")
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 1, 1, 1]
    text = client.get("/metrics").text
    families = {one.name for one in text_string_to_metric_families(text)}  # as Prometheus reads it
    assert {"m2l_requests", "m2l_request_seconds", "m2l_queue_length", "m2l_bundle_info"} <= families
    assert 'm2l_bundle_info{backend="fake"' in text
    assert "secret" not in text


def test_logs__tell_of_requests_and_never_of_masks_names_or_tokens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "m2l.serve")
    with client_of(ServeOptions(token=TOKEN)) as client:
        client.post("/synthesize?name=patient-7", content=PNG, headers={"authorization": f"Bearer {TOKEN}"})
    (record,) = [one for one in caplog.records if one.message == "request"]
    fields = record.m2l_fields  # type: ignore[attr-defined]
    assert (fields["route"], fields["status"], fields["method"]) == ("/synthesize", 200, "POST")
    assert "patient" not in repr(fields)
    assert TOKEN not in repr(fields)


# The page


def test_page__its_files_come_with_a_strict_policy(client: TestClient) -> None:
    for path, file in (("/", "index.html"), *((f"/{name}", name) for name in page_files())):
        answer = client.get(path)
        assert (answer.status_code, answer.content) == (200, page_files()[file].content)
        assert answer.headers["content-type"] == page_files()[file].media_type
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
    assert client.get("/../app.js").status_code in (200, 404)
    assert client.get("/static/app.js").status_code == 404


def test_page__its_configuration_is_of_the_bundle_that_is_served(client: TestClient) -> None:
    bundle = workshop_of(client.app).holder.current.synthesizer.bundle  # type: ignore[arg-type]
    assert client.get("/config.json").json() == json.loads(json.dumps(page_config(bundle)))


# Another bundle under way


def test_reload__serves_the_new_bundle_and_keeps_the_old_one_if_it_is_damaged(tmp_path: Path) -> None:
    steered_bundle(tmp_path / "bundle")

    def reopen() -> Synthesizer:
        return Synthesizer.open(tmp_path / "bundle", backend="fake")

    with client_of(synthesizer=reopen(), reopen=reopen) as client:
        workshop = workshop_of(client.app)  # type: ignore[arg-type]
        first = workshop.holder.current
        before = client.post("/synthesize", content=PNG)
        model = next((tmp_path / "bundle").glob("*.onnx"))
        content = model.read_bytes()
        model.write_bytes(bytes(len(content)))
        with pytest.raises(BundleDamaged):
            asyncio.run(reload_bundle(workshop))
        assert workshop.holder.current is first
        assert client.post("/synthesize", content=PNG).content == before.content
        model.write_bytes(content)
        with first.lease():
            asyncio.run(reload_bundle(workshop))
            assert workshop.holder.current is not first
            first.synthesizer(MASK[None])  # whoever uses it still can
        with pytest.raises(EngineError, match="closed"):
            first.synthesizer(MASK[None])
        assert client.post("/synthesize", content=PNG).content == before.content
        assert workshop.metrics.value("m2l_reloads_total", result="refused") == 1
        assert workshop.metrics.value("m2l_reloads_total", result="done") == 1


def test_service__is_not_ready_once_it_stops() -> None:
    with client_of() as client:
        workshop_of(client.app).holder.is_ready = False  # type: ignore[arg-type]
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200
        assert client.post("/synthesize", content=PNG).status_code == 503


def test_openapi__lists_every_route_and_no_other(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    routes = {route.path for route in client.app.routes}  # type: ignore[attr-defined]
    concrete = {one.replace("{model}", "m2l").replace("{version}", "1") for one in routes}
    pages = {one for one in concrete if not one.startswith(("/v2", "/synthesize", "/metrics", "/openapi"))}
    assert set(document["paths"]) == concrete - pages
    references = {one.rpartition("/")[2] for one in _references(document)}
    assert references <= set(document["components"]["schemas"])


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, one in value.items():
            if name == "$ref":
                yield one
            else:
                yield from _references(one)
    elif isinstance(value, list):
        for one in value:
            yield from _references(one)
