"""Run a bundle in Triton's Python backend: the model that takes masks and samples the other inputs itself.

The model.py that :func:`m2l_runtime.triton.write_model_repository` writes imports `TritonPythonModel` from here, so the
Python that Triton's backend runs needs m2l and an engine: ``pip install "m2l[cpu]"``.

Backend: https://github.com/triton-inference-server/python_backend
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.text import shown
from m2l_runtime.conditioning.conditions import (
    RANDOM_APPEARANCE,
    TAKES_NO_APPEARANCE,
    AppearanceChoice,
    Condition,
    check_appearances,
    item_seed,
    stack_conditions,
)
from m2l_runtime.conditioning.random import check_seed
from m2l_runtime.errors import ArgumentError, ArrayError, InputError, M2LError, MaskFileError
from m2l_runtime.masks.mask_file import read_mask
from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.triton.repository import APPEARANCE, ERROR, MASK, SEEDS
from m2l_runtime.types import Appearance, Images, Mask

PARAMETERS: Final = ("seed", "sample", "names", "appearance")
"""Parameters of a request; those of other names are passed over."""

DEFAULT_NAME: Final = "mask"
"""Name of a mask whose request gives none; of several, mask_0, mask_1 and so on."""

MAX_TEXT: Final = 1 << 16
"""Most characters of a parameter."""


@dataclass(frozen=True)
class Item:
    """Hold a mask of a request, or why it is none."""

    mask: Mask | None
    condition: Condition | None
    error: str = ""


@dataclass(frozen=True)
class Answer:
    """Hold what a request is answered with, a row for each mask."""

    images: Images
    """uint8 (N, H, W, 3); zeros where there is an error."""
    seeds: npt.NDArray[np.uint64]
    """(N, 1); 0 where there is an error, or the generator takes the mask alone."""
    appearances: npt.NDArray[np.float32]
    """(N, K); zeros where there is an error."""
    errors: tuple[str, ...]
    """Why there is no image; empty where there is one."""


class RequestReader:
    """Read requests into items: masks, and what their images depend on beside them."""

    def __init__(self, synthesizer: Synthesizer) -> None:
        self._size = synthesizer.image_size
        self._extra = synthesizer.extra

    def read(
        self,
        masks: npt.NDArray[Any],
        seeds: npt.NDArray[Any] | None = None,
        appearances: npt.NDArray[Any] | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> list[Item]:
        """Read a request.

        Args:
            masks: uint8 (N, h, w) of any size: what :func:`m2l_runtime.read_mask` takes.
            seeds: uint64 (N,) or (N, 1), a seed for each image. None: they follow from parameters, as in `m2l synth`.
            appearances: float32 (N, K). None: they are sampled, as the parameter says.
            parameters: `seed` of a run, `names` of the masks with commas between, `sample` from 1, `appearance` in
                words such as ``lesion_L=35,ita=tan``.

        Raises:
            InputError: what is wrong with the request as a whole. A bad mask is an item with an error.
        """
        parameters = parameters or {}
        if masks.ndim != 3:
            raise ArrayError(f"{MASK} must be (N, H, W), got {masks.shape}")
        conditions = self._conditions(len(masks), seeds, appearances, parameters)
        return [self._item(mask, place, conditions[place]) for place, mask in enumerate(masks)]

    def _item(self, mask: npt.NDArray[Any], place: int, condition: Condition | None) -> Item:
        try:
            return Item(read_mask(mask, self._size).mask, condition)
        except MaskFileError as error:
            return Item(None, None, f"mask {place}: {str(error).partition(': ')[2]}")

    def _conditions(
        self,
        count: int,
        seeds: npt.NDArray[Any] | None,
        appearances: npt.NDArray[Any] | None,
        parameters: Mapping[str, object],
    ) -> Sequence[Condition | None]:
        extra, text = self._extra, parameters.get("appearance")
        if extra.table is None and (text is not None or appearances is not None):
            raise InputError(TAKES_NO_APPEARANCE)
        if text is not None and appearances is not None:
            raise ArgumentError("an appearance is either a parameter or an input; leave one out")
        if not extra.is_random:
            return [None] * count
        own = self._seeds(count, seeds, parameters)
        if extra.table is None:
            return [Condition(seed, None) for seed in own]
        rows: Sequence[Appearance]
        if appearances is not None:
            rows = list(check_appearances(appearances, count, extra.names))
        else:
            choice = RANDOM_APPEARANCE if text is None else AppearanceChoice.parse(_text("appearance", text))
            sampler = extra.sampler_for(choice)
            rows = [sampler.sample(seed) for seed in own]
        return [Condition(seed, row, extra.names) for seed, row in zip(own, rows, strict=True)]

    def _seeds(self, count: int, seeds: npt.NDArray[Any] | None, parameters: Mapping[str, object]) -> list[int]:
        if seeds is not None:
            beside = next((name for name in ("seed", "sample", "names") if name in parameters), None)
            if beside is not None:
                raise ArgumentError(f"{SEEDS} given one by one leave nothing to {beside}; leave one out")
            return [int(seed) for seed in seeds.reshape(count)]
        seed = _number("seed", parameters.get("seed", 0), 0)
        sample = _number("sample", parameters.get("sample", 1), 1)
        names = [DEFAULT_NAME] if count == 1 else [f"{DEFAULT_NAME}_{place}" for place in range(count)]
        if "names" in parameters:
            names = _text("names", parameters["names"]).split(",")
            if len(names) != count or not all(names):
                raise ArgumentError(f"names are {count} words with commas between, one for each mask; got {len(names)}")
        return [item_seed(seed, name, sample) for name in names]


def _number(name: str, value: object, lowest: int) -> int:
    """Read a number, or its decimal digits: numbers above 2^63-1 come as text."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ArgumentError(f"{name} must be a whole number from {lowest}, got {shown(value)}")
    check_seed(value)
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ArgumentError(f"{name} must be a text of at most {MAX_TEXT:,} characters, got {shown(value)}")
    return value


def synthesize_items(synthesizer: Synthesizer, items: Sequence[Item]) -> Images:
    """Synthesize the images of items; those with an error are zeros.

    Raises:
        EngineError: the engine failed.
    """
    images = np.zeros((len(items), *synthesizer.image_size, 3), np.uint8)
    good = [(place, item.mask) for place, item in enumerate(items) if item.mask is not None]
    if good:
        conditions = stack_conditions([items[place].condition for place, _ in good])
        masks = np.stack([mask for _, mask in good])
        images[[place for place, _ in good]] = synthesizer.synthesize_checked(masks, *conditions)
    return images


def answer_of(synthesizer: Synthesizer, items: Sequence[Item], images: Images) -> Answer:
    """Put the answer to a request together."""
    seeds = np.zeros((len(items), 1), np.uint64)
    appearances = np.zeros((len(items), len(synthesizer.appearance_names)), np.float32)
    for place, item in enumerate(items):
        if item.condition is not None:
            seeds[place] = item.condition.seed
            if item.condition.appearance is not None:
                appearances[place] = item.condition.appearance
    return Answer(images, seeds, appearances, tuple(item.error for item in items))


class TritonPythonModel:
    """Answer requests for Triton's Python backend, which names this class and its methods.

    All requests that Triton hands over at once are synthesized together. A request that is wrong is answered with an
    error, a mask that is none with zeros and its reason in the output `error`; neither ends the others.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle beside model.py.

        Args:
            args: what Triton says: the configuration as JSON, the model's folder and version, its device.

        Raises:
            M2LError: the bundle or the engine cannot be used here; Triton does not load the model then.
        """
        self._triton: Any = importlib.import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        own = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        is_gpu = args.get("model_instance_kind") == "GPU"
        threads = own.get("m2l_threads")
        self._synthesizer = Synthesizer.open(
            Path(args["model_repository"]) / args["model_version"] / "bundle",
            backend=own.get("m2l_backend", "auto"),
            device=f"cuda:{args.get('model_instance_device_id', '0')}" if is_gpu else "cpu",
            threads=None if threads is None else int(threads),
            streams=1,
        )
        self._reader = RequestReader(self._synthesizer)
        self._outputs = [output["name"] for output in config["output"]]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests, each with a response of its own."""
        read: list[list[Item] | str] = [self._read(request) for request in requests]
        items = [item for one in read if not isinstance(one, str) for item in one]
        try:
            images = synthesize_items(self._synthesizer, items)
        except M2LError as error:
            return [self._refuse(one if isinstance(one, str) else str(error)) for one in read]
        responses, place = [], 0
        for one in read:
            if isinstance(one, str):
                responses.append(self._refuse(one))
                continue
            answer = answer_of(self._synthesizer, one, images[place : place + len(one)])
            place += len(one)
            responses.append(self._respond(answer))
        return responses

    def finalize(self) -> None:
        """Free what the engine holds."""
        self._synthesizer.close()

    def _read(self, request: Any) -> list[Item] | str:
        """Read a request, or say what is wrong with it."""
        arrays: dict[str, Any] = {}
        for name in (MASK, SEEDS, APPEARANCE):
            tensor = self._triton.get_input_tensor_by_name(request, name)
            arrays[name] = None if tensor is None else tensor.as_numpy()
        try:
            text = request.parameters() if hasattr(request, "parameters") else ""
            parameters = json.loads(text) if text else {}
            known = {key: value for key, value in parameters.items() if key in PARAMETERS}
            return self._reader.read(arrays[MASK], arrays[SEEDS], arrays[APPEARANCE], known)
        except (InputError, ArrayError, ValueError) as error:
            return str(error)

    def _respond(self, answer: Answer) -> Any:
        arrays = {
            SEEDS: answer.seeds,
            APPEARANCE: answer.appearances,
            ERROR: np.array([[text.encode()] for text in answer.errors], object).reshape(-1, 1),
        }
        tensors = [self._triton.Tensor(name, arrays.get(name, answer.images)) for name in self._outputs]
        return self._triton.InferenceResponse(output_tensors=tensors)

    def _refuse(self, message: str) -> Any:
        return self._triton.InferenceResponse(output_tensors=[], error=self._triton.TritonError(message))
