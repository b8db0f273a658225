"""Synthesize images from masks with a bundle on a backend."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import printable
from m2l_runtime.backends.base import Backend, BackendOptions, BackendSettings
from m2l_runtime.backends.messages import out_of_memory_advice
from m2l_runtime.backends.registry import BackendChoice, choose_backend, load_backend
from m2l_runtime.bundle import embedded
from m2l_runtime.bundle.io import Bundle, open_bundle
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.conditioning.conditions import (
    TAKES_NO_APPEARANCE,
    AppearanceChoice,
    Appearances,
    ExtraInputs,
    Seeds,
    check_appearances,
    draw_seeds,
    mask_seed,
)
from m2l_runtime.conditioning.orientation import draw_orientation, orient, orient_back
from m2l_runtime.errors import ArrayError, BundleDamaged, EngineError
from m2l_runtime.types import Images, Masks, is_black_and_white

if TYPE_CHECKING:
    from m2l_runtime.masks.mask_array import SupportsArray, SupportsDLPack
    from m2l_runtime.masks.mask_file import MaskInput


class Synthesizer:
    """Synthesize images from masks, in batches of one fixed size whose tail is padded.

    The fixed size makes results independent of how many masks come at once: a mask gives the same bytes alone or
    among others. A synthesizer may be called from several threads.

    It can be pickled, so that processes that are spawned get one: the path of its bundle and its options travel, and
    the engine is opened where they arrive.

    A generator may take more than the mask: an appearance (:mod:`m2l_runtime.conditioning.numbers`), noise, and which
    features are dropped. All are sampled with a seed for each mask. Appearances may be given instead.

    Example:
        >>> import numpy as np
        >>> masks = np.zeros((2, 256, 256), np.uint8)
        >>> masks[:, 96:160, 96:160] = 255
        >>> with Synthesizer.open(backend="fake") as synth:  # leave out the backend to run the model
        ...     images = synth(masks)
        ...     others = synth(masks, seeds=range(len(masks)))
        >>> images.shape, images.dtype
        ((2, 256, 256, 3), dtype('uint8'))
    """

    def __init__(self, bundle: Bundle, backend: Backend, choice: BackendChoice | None = None) -> None:
        self.bundle: Final = bundle
        self._arguments: Mapping[str, Any] | None = None
        self._backend: Backend | None = backend
        self.settings: Final[BackendSettings] = backend.settings
        name = backend.settings.backend
        self.choice: Final = choice or BackendChoice(name, "it was handed in", (name,))
        """Which backend runs, and why."""
        self.notes: Final = backend.notes
        """What a user should know about how it runs here, such as an option that does not pay."""
        self.extra: Final = ExtraInputs(bundle)
        """What the generator takes beside the mask. `extra.is_random` tells whether seeds change the image."""

    @classmethod
    @check_types(renamed={"trust_engines": "trust_plans"})
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: Precision = "fp32",
        batch_size: int | None = None,
        threads: int | None = None,
        streams: int | None = 1,
        provider_options: Mapping[str, str] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        trust_plans: bool = False,
        on_step: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Open a bundle on a backend.

        Args:
            bundle: folder of a bundle, or an opened bundle; None is the model inside the package.
            backend: auto | openvino | onnxruntime | tensorrt | fake (which runs no model). `auto` is the fastest
                installed one that the bundle was exported for; `choice` says which, and why.
            device: auto | cpu | cuda | cuda:N. `auto` is CUDA where the backend is onnxruntime and CUDA starts, else
                the CPU. `cuda` is an error where CUDA does not start. `settings.device` says which it is.
            precision: what convolutions compute with: fp32, or fp16, bf16 or int8 where the bundle has it for the
                backend.
            batch_size: masks per call of the engine; None: 1 on a CPU, 16 on CUDA. For the lowest latency: 1.
            threads: CPU threads of the engine in all; None: as many CPUs as this process may use.
            streams: engine calls at once; they share the threads. None: as many as give the most images/s. 1 gives the
                lowest latency of a single mask; more pay for many masks.
            provider_options: options of onnxruntime's CUDA provider, by its own names.
            cache_dir: a private folder where compiled models are cached; created if needed. None: openvino caches
                nothing, and tensorrt caches its plans in the user's cache folder.
            trust_plans: whether tensorrt may load the bundle's plans. Plans are code: trust them only from somebody
                whose programs you would run. Otherwise tensorrt builds its own from the bundle's ONNX file.
            on_step: called with a line of text before a step that may take minutes.

        Raises:
            BundleNotFound, BundleTooNew, BundleDamaged: the bundle cannot be used.
            EngineNotInstalled: the message is the command that installs it.
            DeviceUnavailable, EngineError: the engine or the device does not work here.
            ArgumentError: an option is out of range, or a name is unknown.
            OutputError: `cache_dir` cannot be written, or others may write to it.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(embedded.BUNDLE if bundle is None else bundle)
        cache = None if cache_dir is None else Path(cache_dir)
        options = BackendOptions(
            device, precision, batch_size, threads, streams, dict(provider_options or {}), cache, trust_plans, on_step
        )
        choice = choose_backend(opened, backend, options)
        synthesizer = cls(opened, load_backend(opened, choice.name, options), choice)
        synthesizer._arguments = {  # as they were given, for another process to choose by itself
            "backend": backend,
            "device": device,
            "precision": precision,
            "batch_size": batch_size,
            "threads": threads,
            "streams": streams,
            "provider_options": options.provider_options,
            "cache_dir": None if cache is None else cache.absolute(),
            "trust_plans": trust_plans,
        }
        return synthesizer

    def __reduce__(self) -> tuple[Callable[..., Synthesizer], tuple[Any, ...]]:
        """Pickle the path of the bundle, its hash and the options; `on_step` stays here.

        Raises:
            EngineError: it is closed, or was made of a backend that was handed in.
        """
        if self._backend is None:
            raise EngineError("the synthesizer is closed, so it cannot be pickled; open another one")
        if self._arguments is None:
            raise EngineError(
                "the synthesizer was made of a backend that was handed in, so another process cannot open it; "
                "make it with Synthesizer.open"
            )
        is_embedded = self.bundle.path == embedded.BUNDLE
        path = None if is_embedded else self.bundle.path.absolute()
        return _reopen, (type(self), path, self.bundle.sha256, dict(self._arguments))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of masks and images, in pixels."""
        return self.bundle.manifest.image_size

    @property
    def appearance_names(self) -> tuple[str, ...]:
        """Names of the numbers of an appearance, in order; empty where the generator takes none."""
        return self.extra.names

    def __call__(
        self,
        masks: Masks | Sequence[MaskInput] | SupportsArray | SupportsDLPack,
        seeds: Seeds | None = None,
        appearances: Appearances | AppearanceChoice | Mapping[str, float] | str | None = None,
    ) -> Images:
        """Synthesize an image for each mask.

        A call without seeds repeats: the same masks give the same images again. For others each time, as training on
        them wants, pass ``seeds="fresh"``, or a generator of random numbers to have the run repeat as a whole.

        Example:
            >>> masks = np.zeros((2, 256, 256), np.uint8)
            >>> with Synthesizer.open(backend="fake") as synth:
            ...     repeated = [synth(masks) for _ in range(2)]
            ...     fresh = [synth(masks, seeds="fresh") for _ in range(2)]
            ...     dark = synth(masks, appearances="lesion_L=35,ita=tan")
            >>> np.array_equal(*repeated), np.array_equal(*fresh)
            (True, False)

        Args:
            masks: uint8 (N, H, W), 0 background, 255 lesion, of `image_size`; N may be 0. They are only read. Or what
                :func:`m2l_runtime.read_mask` makes that of, and it is made: an array of several masks of another size
                or type (bool, 0 and 1, floats from 0 to 1; (N, 1, H, W) too), of NumPy or another library, or a list of
                masks, as arrays, files, bytes or pictures.
            seeds: (N,) integers, 0..2^64-1, one for each mask. None: they follow from the masks' bytes, so a mask
                always gives the same image. "fresh": drawn by the operating system. A `numpy.random.Generator` or a
                `random.Random`: drawn from it. A generator that takes the mask alone (`extra.is_random` is False)
                ignores them.
            appearances: what the images are to look like, for all masks: numbers by name, as in
                ``"lesion_L=35,ita=tan"``, a mapping or an `AppearanceChoice`; the others are sampled with the seeds.
                Or float32 (N, K), or (K,) for all: a number for each of `appearance_names`. None: sampled from the
                training images.

        Returns:
            uint8 (N, H, W, 3) RGB, a new array owned by the caller.

        Raises:
            ArrayError: an array has another shape, type or range, a mask is a map of class labels, or the generator
                takes no appearance.
            InputError: an appearance is not among those that there are.
            EngineError: the engine failed, or the synthesizer is closed.
        """
        arrays = self._as_masks(masks)
        drawn = None if seeds is None else draw_seeds(seeds, len(arrays))
        if appearances is None:
            return self.synthesize_checked(arrays, drawn)
        if drawn is None:
            drawn = [mask_seed(mask) for mask in arrays]
        return self.synthesize_checked(arrays, drawn, self._appearances(appearances, drawn))

    def _as_masks(self, masks: object) -> Masks:
        """Return what a call was given as `Masks`: itself if it is that already."""
        is_masks = isinstance(masks, np.ndarray) and masks.dtype == np.uint8 and masks.ndim == 3
        has_size = is_masks and masks.shape[1:] == self.image_size  # type: ignore[attr-defined]
        if has_size and is_black_and_white(masks):  # type: ignore[arg-type]
            return masks  # type: ignore[return-value]
        from m2l_runtime.masks.mask_file import stack_gray, stack_masks  # a first image need not wait for it

        return stack_gray(masks) if has_size else stack_masks(masks, self.image_size)  # type: ignore[arg-type]

    def _appearances(
        self, asked: Appearances | AppearanceChoice | Mapping[str, float] | str, seeds: Sequence[int]
    ) -> Appearances:
        """Return the appearance of each image: the numbers asked for, the others sampled with its seed."""
        if self.extra.table is None:
            raise ArrayError(TAKES_NO_APPEARANCE)
        if isinstance(asked, str):
            asked = AppearanceChoice.parse(asked)
        elif isinstance(asked, Mapping):
            asked = AppearanceChoice.from_values(asked)
        if not isinstance(asked, AppearanceChoice):
            return check_appearances(asked, len(seeds), self.appearance_names)
        sampler = self.extra.sampler_for(asked)
        rows = [sampler.sample(seed) for seed in seeds]
        return np.stack(rows) if rows else np.empty((0, len(self.appearance_names)), np.float32)

    def synthesize_checked(
        self, masks: Masks, seeds: Sequence[int] | None = None, appearances: Appearances | None = None
    ) -> Images:
        """Synthesize as a call does, without its checks, for masks of :func:`m2l_runtime.read_mask`.

        A call takes a mask with a maximum of 1 for one of 0 and 1, and refuses maps of class labels; this does not. A
        lesion far smaller than a pixel gives a mask of few dark values when its file is resized.
        """
        if not self.bundle.manifest.random_orientation:
            return self.run_inputs(self.extra.arrays(masks, seeds, appearances))
        seeds = [mask_seed(mask) for mask in masks] if seeds is None else seeds
        orientations = [draw_orientation(seed, self.image_size) for seed in seeds]
        inputs = self.extra.arrays(orient(masks, orientations), seeds, appearances)
        return orient_back(self.run_inputs(inputs), orientations)

    def run_inputs(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Images:
        """Run inputs by their names in the manifest, the mask first. Nothing is checked, and nothing is oriented.

        Raises:
            EngineError: the engine failed, or the synthesizer is closed.
        """
        backend = self._backend
        if backend is None:
            raise EngineError("the synthesizer is closed; open another one")
        return run_in_batches(backend, inputs)

    def close(self) -> None:
        """Free what the engine holds. Closing twice is fine; a later call is an error."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state: Any = "closed" if self._backend is None else self.settings
        return f"<Synthesizer of {self.bundle.manifest.name!r}: {state}>"


def _reopen(kind: type[Synthesizer], path: Path | None, sha256: str, arguments: Mapping[str, Any]) -> Synthesizer:
    """Open a synthesizer that was pickled.

    Raises:
        BundleDamaged: another bundle lies there now; or see :meth:`Synthesizer.open`.
    """
    bundle = open_bundle(embedded.BUNDLE if path is None else path)
    if bundle.sha256 != sha256:
        raise BundleDamaged(
            f"{printable(bundle.path)} is not the bundle that was opened in the other process (its manifest has "
            "another SHA-256); open it anew"
        )
    return kind.open(bundle, **arguments)


def run_in_batches(backend: Backend, inputs: Mapping[str, npt.NDArray[Any]]) -> Images:
    """Run any number of items in batches of the backend's fixed size; zeros pad the last one.

    As many batches run at once as the backend has streams.

    Args:
        backend: computes the images.
        inputs: by name, the mask (N, H, W) first. All have N rows.

    Returns:
        uint8 (N, H, W, 3), owned by the caller.

    Raises:
        EngineError: the engine failed, or memory does not hold a batch.
    """
    size, streams = backend.settings.batch_size, backend.settings.streams
    masks = next(iter(inputs.values()))
    images = np.empty((*masks.shape, 3), np.uint8)

    def run(start: int) -> None:
        try:
            batch = {name: _padded(array[start : start + size], size) for name, array in inputs.items()}
        except MemoryError:
            raise EngineError(out_of_memory_advice(size, streams)) from None
        answer = backend.run(batch)
        if answer.shape != (size, *images.shape[1:]) or answer.dtype != np.uint8:
            raise EngineError(
                f"{backend.settings.backend} answered {answer.shape} {answer.dtype} to a batch of {size}; expected "
                f"{(size, *images.shape[1:])} uint8, as the bundle's manifest says"
            )
        images[start : start + size] = answer[: len(masks) - start]

    starts = range(0, len(masks), size)
    if streams == 1 or len(starts) == 1:
        for start in starts:
            run(start)
    else:
        with ThreadPoolExecutor(streams, "m2l-engine") as pool:
            for _ in pool.map(run, starts):
                pass
    return images


def _padded(rows: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Make `rows` contiguous, and pad them with zeros to `size`."""
    rows = np.ascontiguousarray(rows)
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])
