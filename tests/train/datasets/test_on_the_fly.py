"""Pairs that are synthesized as they are asked for: the same as m2l synth's, whoever makes them and in any order."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import preloaded  # noqa: F401 - has the fork server import PyTorch once
import pytest
import torch
from pairs_content import contents
from support import TINY_BUNDLE, slow
from torch.utils.data import DataLoader

from m2l_runtime import AppearanceChoice, DrawnMasks, Shapes, Synthesizer, iterate_folder, open_source
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.errors import ArgumentError, ArgumentTypeError, BundleNotFound, InputError, MaskFileError
from m2l_runtime.types import NAMES
from m2l_train.datasets import SyntheticDataset, SyntheticIterableDataset, to_dictionary

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # more workers than CPUs
]

START_METHODS = ["fork", "forkserver", slow("spawn")]


def synthesized(bundle: Bundle, masks: Any, **options: Any) -> list[tuple[Any, Any]]:
    """What m2l synth makes."""
    with Synthesizer.open(bundle, backend="onnxruntime", device="cpu") as synth:
        return [(result.image, result.mask) for result in iterate_folder(masks, synth, **options)]


def loaded(dataset: Any, workers: int, method: str | None = None, **options: Any) -> list[tuple[bytes, bytes]]:
    context = None if workers == 0 else multiprocessing.get_context(method or "fork")
    loader: Any = DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=context, **options)
    return contents(loader)


def test_synthetic_dataset__gives_what_m2l_synth_writes(bundle: Bundle) -> None:
    masks = open_source("shapes:5,size=64,seed=3", 12)
    choice = AppearanceChoice.from_values({NAMES[2]: 7})
    for options in ({"seed": 4}, {"seed": 4, "samples": 2}, {"seed": 5, "appearance": choice}):
        pairs = SyntheticDataset(masks, bundle, **options)
        expected = synthesized(bundle, masks, **options)
        assert contents(pairs) == contents(expected)
        assert len(pairs) == len(expected)
        assert len(set(contents(pairs))) == len(pairs)
    assert contents(SyntheticDataset("shapes:5,size=64,seed=3", bundle, seed=4)) == contents(
        synthesized(bundle, masks, seed=4)
    )


def test_synthetic_dataset__the_first_item_is_read_by_hand(bundle: Bundle) -> None:
    """Of the steered bundle: red is the mask, green the appearance asked for."""
    choice = AppearanceChoice.from_values(dict.fromkeys(NAMES, 33.0))
    image, mask = SyntheticDataset("shapes:1,size=64,kinds=square", bundle, appearance=choice)[0]
    assert (image.dtype, image.shape, mask.dtype, mask.shape) == (
        torch.float32,
        (3, 12, 12),
        torch.float32,
        (1, 12, 12),
    )
    assert torch.equal((image[0] * 255).round() >= 128, mask[0] == 1)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal((image[1] * 255).round(), torch.full((12, 12), 33.0))


@pytest.mark.parametrize("method", START_METHODS)
def test_synthetic_dataset__workers_change_nothing(bundle: Bundle, method: str) -> None:
    pairs = SyntheticDataset("shapes:7,size=64", bundle, seed=1)
    alone = loaded(pairs, 0)  # the parent has used its engine before workers start
    assert loaded(pairs, 2, method) == alone
    assert loaded(pairs, 1, method) == alone


def test_synthetic_dataset__batches_change_nothing(bundle: Bundle) -> None:
    pairs = SyntheticDataset("shapes:7,size=64", bundle, seed=1)
    batches = DataLoader(pairs, batch_size=3, num_workers=0)
    assert [len(images) for images, _ in batches] == [3, 3, 1]
    joined = [(image, mask) for images, masks in batches for image, mask in zip(images, masks, strict=True)]
    assert contents(joined) == contents(pairs)


def test_synthetic_dataset__epochs_draw_others_in_workers_that_persist(bundle: Bundle) -> None:
    pairs = SyntheticDataset("shapes:4,size=64", bundle, seed=1)
    context = multiprocessing.get_context("fork")
    loader: Any = DataLoader(
        pairs, batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context=context
    )
    epochs = []
    for epoch in (0, 1, 0):
        pairs.set_epoch(epoch)
        epochs.append(contents(loader))
    assert epochs[0] == epochs[2]
    assert [mask for _, mask in epochs[0]] == [mask for _, mask in epochs[1]]
    assert all(one != other for (one, _), (other, _) in zip(epochs[0], epochs[1], strict=True))


def test_synthetic_dataset__pickled_it_is_a_description(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = SyntheticDataset("shapes:3,size=64", bundle, seed=1)
    before = len(pickle.dumps(pairs))
    expected = contents(pairs)
    assert len(pickle.dumps(pairs)) < before + 20_000
    with monkeypatch.context() as patch:
        patch.setattr(Synthesizer, "open", None)  # nothing is opened before it is needed
        again = pickle.loads(pickle.dumps(pairs))
    assert contents(again) == expected


def test_synthetic_dataset__what_a_transform_gives_is_the_item(bundle: Bundle) -> None:
    def seen(image: Any, mask: Any) -> dict[str, Any]:
        assert (image.shape, image.dtype, mask.shape, mask.dtype) == ((12, 12, 3), np.uint8, (12, 12), np.uint8)
        return {"image": 1, "mask": 2}

    assert SyntheticDataset("shapes:1,size=64", bundle, transform=seen)[0] == (1, 2)
    item = SyntheticDataset("shapes:1,size=64", bundle, transform=to_dictionary)[0]
    assert {key: tuple(value.shape) for key, value in item.items()} == {"image": (3, 12, 12), "label": (1, 12, 12)}
    assert SyntheticDataset("shapes:1,size=64", bundle, transform=lambda **pair: sorted(pair))[0] == ["image", "mask"]


def test_synthetic_iterable_dataset__workers_and_shards_share_the_items(bundle: Bundle) -> None:
    masks = "shapes:5,size=64"
    expected = contents(SyntheticDataset(masks, bundle, seed=1))
    pairs = SyntheticIterableDataset(masks, bundle, seed=1, passes=2)
    alone = loaded(pairs, 0)
    assert alone[:5] == expected
    assert len(alone) == len(pairs) == 10
    assert len(set(alone)) == 10, "a second pass draws other images"
    assert sorted(loaded(pairs, 3)) == sorted(alone)
    shards = [SyntheticIterableDataset(masks, bundle, seed=1, passes=2, shard=(number, 3)) for number in (1, 2, 3)]
    assert [len(shard) for shard in shards] == [4, 3, 3]
    found = [loaded(shard, 2) for shard in shards]
    assert [len(one) for one in found] == [4, 3, 3]
    assert sorted(itertools.chain(*found)) == sorted(alone)


def test_synthetic_iterable_dataset__a_source_gives_masks_without_end(bundle: Bundle) -> None:
    pairs = SyntheticIterableDataset(Shapes(seed=2, size=64), bundle, seed=1)
    first = contents(itertools.islice(pairs, 6))
    assert first == contents(synthesized(bundle, DrawnMasks(Shapes(seed=2, size=64), 6), seed=1))
    with pytest.raises(TypeError, match="no length"):
        len(pairs)
    loader: Any = DataLoader(pairs, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert sorted(contents(itertools.islice(loader, 6))) == sorted(first)


@pytest.mark.slow
def test_synthetic_iterable_dataset__without_a_seed_pytorch_decides(bundle: Bundle) -> None:
    pairs = SyntheticIterableDataset("shapes:4,size=64", bundle, seed=None, passes=1)

    def run(seed: int, workers: int, epochs: int = 1) -> list[list[tuple[bytes, bytes]]]:
        torch.manual_seed(seed)
        return [loaded(pairs, workers) for _ in range(epochs)]

    for workers in (0, 2):
        first, second = run(1, workers, epochs=2)
        assert first != second
        assert run(1, workers, epochs=2) == [first, second]
        assert run(2, workers) != [first]
        assert len(set(first)) == 4
    assert sorted(run(1, 2)[0]) == sorted(run(1, 3)[0]), "all workers draw with one seed"


def test_synthetic_iterable_dataset__epochs_draw_others(bundle: Bundle) -> None:
    pairs = SyntheticIterableDataset("shapes:3,size=64", bundle, passes=1)
    first = contents(pairs)
    assert contents(pairs) == first
    pairs.set_epoch(1)
    assert set(contents(pairs)).isdisjoint(first)


def test_synthetic_datasets__a_folder_with_a_broken_mask(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    pairs = SyntheticDataset(tmp_path, bundle)
    assert pairs.names == ["broken.png"]
    with pytest.raises(MaskFileError, match=r"broken\.png"):
        pairs[0]
    with pytest.raises(MaskFileError, match=r"broken\.png"):
        loaded(pairs, 1)


def test_synthetic_datasets__bad_arguments(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        SyntheticDataset(tmp_path / "none", bundle)
    with pytest.raises(InputError, match="holds no masks"):
        SyntheticDataset(tmp_path, bundle)
    with pytest.raises(BundleNotFound):
        SyntheticDataset("shapes:1,size=64", tmp_path)
    with pytest.raises(InputError, match="takes the mask alone"):
        SyntheticDataset("shapes:1,size=64", TINY_BUNDLE, samples=2)
    with pytest.raises(ArgumentError, match="seed"):
        SyntheticDataset("shapes:1,size=64", bundle, seed=-1)
    with pytest.raises(ArgumentTypeError, match="SyntheticDataset: samples must be a whole number"):
        SyntheticDataset("shapes:1,size=64", bundle, samples="2")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="numbered from 0"):
        SyntheticDataset("shapes:1,size=64", bundle).set_epoch(-1)
    with pytest.raises(IndexError):
        SyntheticDataset("shapes:1,size=64", bundle)[1]
    for options in ({"passes": 0}, {"shard": (0, 2)}, {"shard": (3, 2)}):
        with pytest.raises(ArgumentError):
            SyntheticIterableDataset("shapes:1,size=64", bundle, **options)
    with pytest.raises(ArgumentError, match="over masks that end"):
        SyntheticIterableDataset(Shapes(), bundle, passes=1)


@pytest.mark.slow
def test_synthetic_dataset__workers_after_their_parent_has_used_openvino() -> None:
    pytest.importorskip("openvino")
    with Synthesizer.open(backend="openvino") as synth:
        synth(np.zeros((1, 256, 256), np.uint8))
        pairs = SyntheticDataset("shapes:2", seed=1)
        assert loaded(pairs, 2, "fork", timeout=120) == loaded(pairs, 0)
