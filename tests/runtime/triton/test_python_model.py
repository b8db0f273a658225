"""The model of Triton's Python backend, with a stand-in for what that backend hands it, against runs of `m2l synth`."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from PIL import Image
from steered_bundle import BOTH, SIDE, steered_bundle
from support import TINY_BUNDLE, disc, save

from m2l_runtime.errors import BundleNotFound, EngineError
from m2l_runtime.triton import TritonOptions, write_model_repository
from m2l_runtime.triton.python_model import TritonPythonModel

NAMES = ("a", "b/c")


class FakeTensor:
    """Stand in for the backend's Tensor."""

    def __init__(self, name: str, array: np.ndarray[Any, Any]) -> None:
        self.name, self._array = name, array

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self._array


class FakeResponse:
    """Stand in for the backend's InferenceResponse."""

    def __init__(self, output_tensors: list[FakeTensor], error: Exception | None = None) -> None:
        self.outputs = {one.name: one.as_numpy() for one in output_tensors}
        self.error = None if error is None else str(error)


class FakeRequest:
    """Stand in for the backend's InferenceRequest."""

    def __init__(self, inputs: dict[str, Any], parameters: str = "") -> None:
        self.inputs, self._parameters = inputs, parameters

    def parameters(self) -> str:
        return self._parameters


def request(mask: Any, seeds: Any = None, appearance: Any = None, **parameters: Any) -> FakeRequest:
    if isinstance(appearance, str):
        parameters, appearance = {**parameters, "appearance": appearance}, None
    given = {"mask": mask, "seeds": seeds, "appearance": appearance}
    return FakeRequest(given, json.dumps(parameters) if parameters else "")


@pytest.fixture
def open_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., TritonPythonModel]]:
    """Open the model of a repository that is written for it, as Triton does."""
    backend = types.ModuleType("triton_python_backend_utils")
    backend.__dict__.update(
        Tensor=FakeTensor,
        InferenceResponse=FakeResponse,
        TritonError=RuntimeError,
        get_input_tensor_by_name=lambda asked, name: (
            None if asked.inputs.get(name) is None else FakeTensor(name, asked.inputs[name])
        ),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    opened: list[TritonPythonModel] = []

    def open_it(bundle: Path, engine: str = "onnxruntime") -> TritonPythonModel:
        made = write_model_repository(bundle, tmp_path / "models", TritonOptions(name="m", backend=engine))
        model = TritonPythonModel()
        # As Triton describes the configuration: what the model reads of it.
        is_plain = bundle == TINY_BUNDLE
        outputs = ["image", *([] if is_plain else ["seeds", "appearance"]), "error"]
        config = {
            "output": [{"name": name} for name in outputs],
            "parameters": {"m2l_backend": {"string_value": engine}, "m2l_threads": {"string_value": "1"}},
        }
        model.initialize(
            {
                "model_config": json.dumps(config),
                "model_repository": str(made.path / "m"),
                "model_version": "1",
                "model_instance_kind": "CPU",
                "model_instance_device_id": "0",
            }
        )
        opened.append(model)
        return model

    yield open_it
    for model in opened:
        model.finalize()


@pytest.fixture
def steered(tmp_path: Path) -> Path:
    return steered_bundle(tmp_path / "bundle", BOTH).path


def masks() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack([disc(SIDE, radius, 6, 6) for radius in (4, 2)])


def synthesized(m2l: CommandLine, bundle: Path, folder: Path, *options: object) -> list[np.ndarray[Any, Any]]:
    """The images that `m2l synth` makes of the masks, named as NAMES."""
    (folder / "masks" / "b").mkdir(parents=True)
    for name, mask in zip(NAMES, masks(), strict=True):
        save(folder / "masks" / f"{name}.png", mask)
    flags = ("--bundle", bundle, "--backend", "onnxruntime", "--device", "cpu", *options)
    assert m2l("synth", folder / "masks", folder / "out", *flags).code == 0
    images = []
    for path in sorted((folder / "out").rglob("*.png")):
        with Image.open(path) as picture:
            images.append(np.asarray(picture))
    return images


def test_python_model__gives_the_images_of_m2l_synth(
    open_model: Callable[..., TritonPythonModel], steered: Path, tmp_path: Path, m2l: CommandLine
) -> None:
    expected = synthesized(m2l, steered, tmp_path, "--seed", 7)
    model = open_model(steered)
    (response,) = model.execute([request(masks(), seed=7, names="a,b/c")])
    assert response.error is None
    assert response.outputs["image"].dtype == np.uint8
    assert np.array_equal(response.outputs["image"], expected)
    assert response.outputs["error"].tolist() == [[b""], [b""]]
    assert response.outputs["appearance"].shape == (2, 12)
    assert response.outputs["seeds"].shape == (2, 1)
    (again,) = model.execute([request(masks(), seeds=response.outputs["seeds"])])
    assert np.array_equal(again.outputs["image"], expected)
    (given,) = model.execute(
        [request(masks(), seeds=response.outputs["seeds"], appearance=response.outputs["appearance"])]
    )
    assert np.array_equal(given.outputs["image"], expected)


def test_python_model__samples_and_appearances_are_those_of_m2l_synth(
    open_model: Callable[..., TritonPythonModel], steered: Path, tmp_path: Path, m2l: CommandLine
) -> None:
    expected = synthesized(m2l, steered, tmp_path, "--samples", 2, "--appearance", "lesion_L=35")
    model = open_model(steered)
    asked = [request(masks(), names="a,b/c", sample=sample, appearance="lesion_L=35") for sample in (1, 2)]
    first, second = model.execute(asked)
    assert np.array_equal(first.outputs["image"], expected[0::2])
    assert np.array_equal(second.outputs["image"], expected[1::2])
    assert first.outputs["appearance"][:, 0].tolist() == [35, 35]


def test_python_model__seeds_of_any_size_and_as_text(
    open_model: Callable[..., TritonPythonModel], steered: Path
) -> None:
    model = open_model(steered)
    number, text, other, named = model.execute(
        [
            request(masks()[:1], seed=2**62),
            request(masks()[:1], seed=str(2**62)),
            request(masks()[:1], seed=str(2**64 - 1)),
            request(masks()[:1], seed=2**62, names="mask", sample=1),
        ]
    )
    assert number.outputs["seeds"] == text.outputs["seeds"] == named.outputs["seeds"]
    assert other.error is None
    assert other.outputs["seeds"] != number.outputs["seeds"]


def test_python_model__a_bad_mask_is_one_row_with_an_error(
    open_model: Callable[..., TritonPythonModel], steered: Path
) -> None:
    model = open_model(steered)
    noise = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE), np.uint8)
    mixed = np.concatenate([masks()[:1], noise, masks()[1:]])
    first, second = model.execute([request(mixed, names="a,x,b/c"), request(masks(), names="a,b/c")])
    assert first.error is None
    assert [bool(row[0]) for row in first.outputs["error"]] == [False, True, False]
    assert first.outputs["error"][1][0].startswith(b"mask 1: looks like a photograph")
    assert not first.outputs["image"][1].any()
    assert np.array_equal(first.outputs["image"][[0, 2]], second.outputs["image"])
    (alone,) = model.execute([request(noise)])
    assert alone.outputs["error"][0][0].startswith(b"mask 0: ")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seed": -1}, "seed must be a whole number from 0, got -1"),
        ({"seed": True}, "seed must be a whole number from 0"),
        ({"seed": "x"}, "seed must be a whole number from 0"),
        ({"seed": 2**64}, "seed"),
        ({"sample": 0}, "sample must be a whole number from 1"),
        ({"names": "a"}, "names are 2 words with commas between, one for each mask; got 1"),
        ({"names": "a,"}, "names are 2 words"),
        ({"names": 5}, "names must be a text"),
        ({"names": "x" * 70000}, "names must be a text of at most"),
        ({"appearance": "shoe_size=43"}, "appearances have no 'shoe_size'"),
        ({"appearance": "hair=1"}, "the appearances of this bundle have no 'hair'"),
        ({"appearance": "lesion_L=1e9"}, "lesion_L must be between"),
        ({"seeds": np.ones((2, 1), np.uint64), "seed": 1}, "seeds given one by one leave nothing to seed"),
        ({"appearance": np.zeros((2, 3), np.float32)}, "appearances must be"),
        ({"appearance": np.full((2, 12), np.nan, np.float32)}, "finite"),
    ],
)
def test_python_model__a_bad_request_is_refused_and_the_others_are_answered(
    open_model: Callable[..., TritonPythonModel], steered: Path, asked: dict[str, Any], message: str
) -> None:
    model = open_model(steered)
    refused, good = model.execute([request(masks(), **asked), request(masks())])
    assert message in refused.error
    assert refused.outputs == {}
    assert good.error is None


def test_python_model__parameters_that_are_no_json_are_refused(
    open_model: Callable[..., TritonPythonModel], steered: Path
) -> None:
    (refused,) = open_model(steered).execute([FakeRequest({"mask": masks()}, "{")])
    assert refused.error is not None


def test_python_model__a_generator_of_the_mask_alone(open_model: Callable[..., TritonPythonModel]) -> None:
    model = open_model(TINY_BUNDLE)
    large = disc(256)[None]
    answered, refused = model.execute([request(large, seed=5), request(large, appearance="hair=1")])
    assert answered.outputs.keys() == {"image", "error"}
    assert "takes no appearance" in refused.error
    (again,) = model.execute([request(large)])
    assert np.array_equal(answered.outputs["image"], again.outputs["image"])


def test_python_model__requests_without_parameters_of_older_backends(
    open_model: Callable[..., TritonPythonModel], steered: Path
) -> None:
    class Old:
        inputs = {"mask": masks()}  # noqa: RUF012

    (response,) = open_model(steered).execute([Old()])
    assert response.error is None


def test_python_model__an_engine_that_fails_fails_the_requests_and_nothing_else(
    open_model: Callable[..., TritonPythonModel], steered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(steered)

    def fail(*_: Any) -> None:
        raise EngineError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(model._synthesizer, "synthesize_checked", fail)
        bad, refused = model.execute([request(masks()), request(masks(), seed=-1)])
    assert bad.error == "out of memory"
    assert "seed must be" in refused.error
    (good,) = model.execute([request(masks())])
    assert good.error is None


def test_python_model__a_bundle_that_is_gone_is_told_when_it_loads(
    open_model: Callable[..., TritonPythonModel], tmp_path: Path
) -> None:
    open_model(TINY_BUNDLE, "fake")
    arguments = {"model_config": '{"output": []}', "model_repository": str(tmp_path), "model_version": "1"}
    with pytest.raises(BundleNotFound):
        TritonPythonModel().initialize(arguments)
