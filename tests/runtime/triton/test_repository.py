"""Model repositories: what is written of a bundle, and that it is there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from config_text import read_config
from plan_bundle import with_plans
from steered_bundle import BOTH, SIDE, steered_bundle
from support import TINY_BUNDLE

from m2l_runtime import open_bundle
from m2l_runtime.errors import ArgumentError, BundleDamaged, BundleNotFound, OutputError
from m2l_runtime.triton import TritonOptions, write_model_repository
from m2l_runtime.triton.config_text import config_text

_DTYPES: dict[str, Any] = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_UINT64": np.uint64}


def configs_of(repository: Path) -> dict[str, dict[str, list[Any]]]:
    return {
        folder.name: read_config((folder / "config.pbtxt").read_text())
        for folder in repository.iterdir()
        if folder.is_dir()
    }


def test_repository__has_a_model_for_each_file_and_engine(bundle_copy: Path, tmp_path: Path) -> None:
    bundle = with_plans(
        bundle_copy,
        {},
        {"compute_capability": "9.0"},
        {"compute_capability": "9.0", "batch_sizes": (1, 2, 4), "precision": "fp16"},
        {"flavour": "tensorrt_rtx", "compute_capability": "12.0"},
        {"compute_capability": "8.0", "batch_sizes": (2, 4, 8)},
        {"card": "NVIDIA L4"},
    )
    made = write_model_repository(bundle, tmp_path / "models", TritonOptions(name="x", threads=3))
    assert [(model.name, model.backend) for model in made.models] == [
        ("x", "python"),
        ("x_onnxruntime_fp32", "onnxruntime"),
        ("x_onnxruntime_fp16", "onnxruntime"),
        ("x_openvino_fp32", "openvino"),
        ("x_openvino_int8", "openvino"),
        ("x_tensorrt_fp32", "tensorrt"),
        ("x_tensorrt_fp16", "tensorrt"),
    ]
    notes = "\n".join(made.notes)
    for words in (
        "openvino in bf16 is left out",
        "3.plan is left out: Triton runs plans of TensorRT, and it is one of TensorRT for RTX",
        "4.plan is left out: it takes 2 masks at least",
        "5.plan is left out: 0.plan is for the same GPUs (compute capability 8.9)",
        "x_tensorrt_fp32 needs a Triton with TensorRT 10.13.3",
    ):
        assert words in notes
    configs = configs_of(tmp_path / "models")
    assert configs.keys() == {model.name for model in made.models}
    kinds = {name: config["instance_group"][0]["kind"][0] for name, config in configs.items()}
    assert kinds == {
        "x": "KIND_CPU",
        "x_onnxruntime_fp32": "KIND_AUTO",
        "x_onnxruntime_fp16": "KIND_GPU",
        "x_openvino_fp32": "KIND_CPU",
        "x_openvino_int8": "KIND_CPU",
        "x_tensorrt_fp32": "KIND_GPU",
        "x_tensorrt_fp16": "KIND_GPU",
    }
    plans = configs["x_tensorrt_fp32"]["cc_model_filenames"]
    assert {one["key"][0]: one["value"][0] for one in plans} == {b"8.9": b"model_8_9.plan", b"9.0": b"model_9_0.plan"}
    assert configs["x_tensorrt_fp32"]["default_model_filename"] == [b"model_8_9.plan"]
    assert (tmp_path / "models" / "x_tensorrt_fp32" / "1" / "model_9_0.plan").read_bytes() == b"1 plan"
    assert configs["x_tensorrt_fp16"]["max_batch_size"] == [4]
    assert configs["x_openvino_fp32"]["default_model_filename"] == [b"model.onnx"]
    parameters = {
        name: {one["key"][0]: one["value"][0]["string_value"][0] for one in config.get("parameters", [])}
        for name, config in configs.items()
    }
    assert parameters["x_onnxruntime_fp32"] == {b"intra_op_thread_count": b"3"}
    assert parameters["x_openvino_int8"] == {b"INFERENCE_NUM_THREADS": b"3"}
    assert parameters["x"][b"m2l_threads"] == b"3"
    model = (tmp_path / "models" / "x_onnxruntime_fp32" / "1" / "model.onnx").read_bytes()
    assert model == bundle.read(bundle.manifest.models[0].file)
    write_model_repository(tmp_path / "models" / "x" / "1" / "bundle", tmp_path / "again")  # it is the bundle
    assert open_bundle(tmp_path / "models" / "x" / "1" / "bundle").sha256 == bundle.sha256


def test_repository__begins_with_golden_inputs(tmp_path: Path) -> None:
    bundle = steered_bundle(tmp_path / "bundle", BOTH)
    golden, _ = bundle.read_golden()
    write_model_repository(bundle, tmp_path / "models", TritonOptions(max_batch_size=4))
    for name, config in configs_of(tmp_path / "models").items():
        warm_up = config["model_warmup"]
        assert [one["batch_size"] for one in warm_up] == [[1], [4]]
        required = [one["name"][0] for one in config["input"] if one.get("optional", ["false"]) != ["true"]]
        for one in warm_up:
            assert [entry["key"][0] for entry in one["inputs"]] == required
            for entry in one["inputs"]:
                value = entry["value"][0]
                file = tmp_path / "models" / name / "warmup" / value["input_data_file"][0].decode()
                array = np.frombuffer(file.read_bytes(), _DTYPES[value["data_type"][0]]).reshape(value["dims"])
                assert np.array_equal(array, golden[entry["key"][0].decode()][0])


def test_repository__inputs_and_outputs_are_the_generators(tmp_path: Path) -> None:
    bundle = steered_bundle(tmp_path / "bundle", BOTH)
    write_model_repository(bundle, tmp_path / "models", TritonOptions(name="s", max_queue_delay_us=5, max_queue_size=9))
    configs = configs_of(tmp_path / "models")

    def tensors(name: str, field: str) -> dict[bytes, tuple[str, list[int]]]:
        return {one["name"][0]: (one["data_type"][0], one["dims"]) for one in configs[name][field]}

    image = (b"image", ("TYPE_UINT8", [SIDE, SIDE, 3]))
    assert tensors("s_onnxruntime_fp32", "input") == {
        b"mask": ("TYPE_UINT8", [SIDE, SIDE]),
        b"appearance": ("TYPE_FP32", [12]),
        b"dropout_bits": ("TYPE_UINT8", [SIDE]),
    }
    assert tensors("s_onnxruntime_fp32", "output") == dict([image])
    conditions = {b"seeds": ("TYPE_UINT64", [1]), b"appearance": ("TYPE_FP32", [12])}
    assert tensors("s", "input") == {b"mask": ("TYPE_UINT8", [-1, -1])} | conditions
    assert tensors("s", "output") == dict([image]) | conditions | {b"error": ("TYPE_STRING", [1])}
    batching = configs["s"]["dynamic_batching"][0]
    assert batching["preferred_batch_size"] == [16]
    assert batching["max_queue_delay_microseconds"] == [5]
    assert batching["default_queue_policy"][0] == {"timeout_action": ["REJECT"], "max_queue_size": [9]}
    write_model_repository(TINY_BUNDLE, tmp_path / "tiny", TritonOptions(name="t", device="gpu", instances=2))
    plain = configs_of(tmp_path / "tiny")["t"]
    assert [one["name"][0] for one in plain["input"]] == [b"mask"]
    assert [one["name"][0] for one in plain["output"]] == [b"image", b"error"]
    assert plain["instance_group"] == [{"count": [2], "kind": ["KIND_GPU"]}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("m2l embedded model", "m2l_embedded_model"),
        ("../../etc", "etc"),
        ("läsion 3", "l_sion_3"),
        ("\x1b[31m", "31m"),
        ("..", "m2l"),
        ("x" * 99, "x" * 64),
    ],
)
def test_repository__a_bundles_name_becomes_the_name_of_a_folder(
    bundle_copy: Path, tmp_path: Path, given: str, expected: str
) -> None:
    manifest = json.loads((bundle_copy / "manifest.json").read_bytes())
    (bundle_copy / "manifest.json").write_text(json.dumps(manifest | {"name": given}))
    made = write_model_repository(bundle_copy, tmp_path / "models")
    assert made.models[0].name == expected
    assert {path.name for path in (tmp_path / "models").iterdir() if path.is_dir()} == {m.name for m in made.models}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../x"}, "a model's name has 1 to 64 letters, digits, _ or -, got '../x'"),
        ({"name": ""}, "a model's name has 1 to 64 letters"),
        ({"name": "a\nb"}, "a model's name has 1 to 64 letters"),
        ({"max_batch_size": 0}, "the max batch size must be between 1 and 4,096, got 0"),
        ({"instances": 0}, "the instances must be between 1 and"),
        ({"max_queue_size": 0}, "the max queue size must be between 1 and"),
        ({"max_queue_delay_us": -1}, "the max queue delay must be between 0 and"),
        ({"threads": 0}, "the threads must be between 1 and"),
        ({"backend": "onnx"}, "there is no backend 'onnx'; choose one of auto, openvino, "),
    ],
)
def test_triton_options__out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        TritonOptions(**options)
    assert message in str(refused.value)


def test_repository__replaces_only_repositories_and_only_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "models"
    write_model_repository(TINY_BUNDLE, target, TritonOptions(name="a"))
    with pytest.raises(OutputError, match="exists already; choose another name or give --overwrite"):
        write_model_repository(TINY_BUNDLE, target, TritonOptions(name="b"))
    write_model_repository(TINY_BUNDLE, target, TritonOptions(name="b"), overwrite=True)
    assert "a" not in configs_of(target)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(target)
    for path in (other, other / "mine.txt", tmp_path / "link"):
        with pytest.raises(OutputError, match="is no model repository that m2l wrote"):
            write_model_repository(TINY_BUNDLE, path, overwrite=True)
    assert (other / "mine.txt").read_text() == "mine"


def test_repository__a_damaged_bundle_leaves_what_was_there(bundle_copy: Path, tmp_path: Path) -> None:
    target = tmp_path / "models"
    write_model_repository(bundle_copy, target, TritonOptions(name="a"))
    bundle = open_bundle(bundle_copy)
    file = bundle_copy / bundle.manifest.models[0].file.path
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleDamaged, match="SHA-256 differs"):
        write_model_repository(bundle_copy, target, TritonOptions(name="b"), overwrite=True)
    assert "a" in configs_of(target)
    file.write_bytes(content)
    (bundle_copy / "manifest.json").write_bytes((bundle_copy / "manifest.json").read_bytes() + b" ")
    with pytest.raises(BundleDamaged, match="has changed since the bundle was opened"):
        write_model_repository(bundle, target, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    with pytest.raises(BundleNotFound):
        write_model_repository(tmp_path / "absent", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_config_text__texts_come_back_whatever_is_in_them() -> None:
    text = 'a"b\\c\n\x1b[31m } é { \u202e'
    assert read_config(config_text({"x": text, "n": -3, "yes": True, "m": [{"l": [1, 2]}, {"l": ["a", text]}]})) == {
        "x": [text.encode()],
        "n": [-3],
        "yes": ["true"],
        "m": [{"l": [1, 2]}, {"l": [b"a", text.encode()]}],
    }


def test_triton__the_command_line(tmp_path: Path, m2l: CommandLine) -> None:
    done = m2l("triton", tmp_path / "models", "--bundle", TINY_BUNDLE, "--name", "lesions", "--instances", 2)
    assert done.code == 0, done.err
    assert "lesions: python, fp32" in done.out
    assert f"tritonserver --model-repository {tmp_path / 'models'}" in done.out
    again = m2l("triton", tmp_path / "models", "--bundle", TINY_BUNDLE)
    assert again.code == 1
    assert "give --overwrite" in again.err
    shown = m2l("triton", tmp_path / "models", "--bundle", TINY_BUNDLE, "--overwrite", "--json")
    assert json.loads(shown.out)["models"][0]["backend"] == "python"
    assert m2l("triton", tmp_path / "new", "--max-batch-size", 0).code == 2
    assert m2l("triton", tmp_path / "new", "--device", "tpu").code == 2
    assert not (tmp_path / "new").exists()
