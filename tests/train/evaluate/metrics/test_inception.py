"""FID against its closed form and SciPy; the features through torch-fidelity with random weights."""

from __future__ import annotations

import builtins
import hashlib
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_data import photographs

from m2l_runtime.errors import EngineNotInstalled, InputError
from m2l_train.evaluate import EvaluationOptions, evaluate_images


def stub_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub in place of torchvision, which torch-fidelity imports and Inception does not use."""
    names = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")
    stubs = {name: types.ModuleType(name) for name in names}
    for data_set in ("CIFAR10", "STL10", "CIFAR100"):
        setattr(stubs["torchvision.datasets"], data_set, object)
    for name in names[1:]:
        parent, _, child = name.rpartition(".")
        setattr(stubs[parent], child, stubs[name])
    for name, module in stubs.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def inception_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    import importlib.util

    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is not installed")
    if importlib.util.find_spec("torchvision") is None:
        stub_torchvision(monkeypatch)
    from m2l_train.evaluate.metrics import inception

    return inception


@pytest.fixture
def weights(inception_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with random weights of the right shapes, large enough for signals to come through."""
    kind = inception_module.FeatureExtractorInceptionV3
    made: dict[str, torch.Tensor] = {}

    def keep(self: torch.nn.Module, state: Any) -> None:
        del state
        made.update(self.state_dict())

    with monkeypatch.context() as patch:
        patch.setattr(kind, "load_state_dict", keep)
        empty = tmp_path / "empty.pth"
        torch.save({}, empty)
        kind("random", ["2048"], feature_extractor_weights_path=str(empty))
    path = tmp_path / "inception.pth"
    torch.save({name: value * 6**0.5 if value.dim() == 4 else value for name, value in made.items()}, path)
    return path


def test_inception__features_are_those_of_torch_fidelity(inception_module: Any, weights: Path) -> None:
    images = photographs(3)
    network = inception_module.Inception(weights)
    found = network(images)
    assert found.shape == (3, 2048)
    theirs = inception_module.FeatureExtractorInceptionV3(
        "theirs", ["2048"], feature_extractor_weights_path=str(weights)
    )
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2))[0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
    assert len(network.sha256) == 64


@pytest.mark.slow
def test_inception__figures_of_a_whole_evaluation(
    inception_module: Any, weights: Path, data: Path, synthetic: Path, tmp_path: Path
) -> None:
    del inception_module
    found = evaluate_images(synthetic, data, EvaluationOptions(inception=weights))
    copies = evaluate_images(
        shutil.copytree(data / "val" / "images", tmp_path / "copies"), data, EvaluationOptions(inception=weights)
    )
    assert found is not None
    assert copies is not None
    for name in ("fid_inception", "kid_inception"):
        figure = copies.figures[name]
        assert figure.real is not None
        assert figure.value == pytest.approx(figure.real.value)
        assert found.figures[name].value != figure.value
        assert found.figures[name].real == figure.real
    assert found.figures["fid_inception"].no_interval is not None
    assert found.figures["kid_inception"].low is not None
    assert found.provenance.inception_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return builtins.eval, ("1/0",)


def test_inception__other_files_are_refused_and_nothing_is_downloaded_or_run(
    inception_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("it tries to download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", never)
    files = {name: tmp_path / name for name in ("missing", "text", "empty", "bomb", "other")}
    files["text"].write_text("weights")
    files["empty"].touch()
    torch.save(Bomb(), files["bomb"])
    torch.save({"a": torch.zeros(3)}, files["other"])
    for path in (*files.values(), tmp_path):
        with pytest.raises(InputError, match="expected the Inception weights"):
            inception_module.Inception(path)


def test_inception__without_torch_fidelity_the_error_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from m2l_train.evaluate import evaluation

    monkeypatch.delitem(sys.modules, "m2l_train.evaluate.metrics.inception", raising=False)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.delitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", raising=False)
    with pytest.raises(EngineNotInstalled, match=r'pip install "m2l\[inception\]"'):
        evaluation._open_inception("any")
