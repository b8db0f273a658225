"""Synthesize lesions on many machines with Ray Data.

Ray is not imported here: these are callables for its ``map_batches``, which run anywhere. Two ways:

- :class:`LesionSynthesizer` takes rows of masks, wherever Ray reads them from, and gives rows with images as bytes.
- :func:`plan_files` and :class:`LesionFileWriter` write the tars or Parquet files of `m2l synth`, each by one actor,
  byte for byte. No image travels between machines.

Docs: docs/scaling.md; a script that runs: examples/ray_synthesis.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.cpu import check_workers
from m2l_runtime._utils.text import printable, stem
from m2l_runtime.bundle.schema import Precision
from m2l_runtime.conditioning.conditions import AppearanceChoice, Condition, Conditions
from m2l_runtime.errors import ArgumentError, ArrayError, InputError, MaskFileError, OutputError, kind_of
from m2l_runtime.masks.mask_file import MaskFile, read_mask
from m2l_runtime.masks.mask_folder import MaskFolder, mask_set
from m2l_runtime.masks.mask_set import MaskSet
from m2l_runtime.masks.samples import sampled
from m2l_runtime.masks.sources.spec import is_spec, open_source
from m2l_runtime.output.encoding import Encoding, encode_image, encode_mask, self_description
from m2l_runtime.output.options import OutputOptions
from m2l_runtime.runs.folder import RunCallbacks
from m2l_runtime.runs.log import log_paths, names_output
from m2l_runtime.runs.part import Part, deal_out, masks_of, synthesize_part
from m2l_runtime.runs.pipeline import Input, Result, condition_of, overlap
from m2l_runtime.synthesizer import Synthesizer
from m2l_runtime.types import Image

__all__ = ["EngineOptions", "LesionFileWriter", "LesionSynthesizer", "plan_files"]

Batch = Mapping[str, npt.NDArray[Any]]
"""Columns by name, as ``map_batches`` hands them over with ``batch_format="numpy"``, its default."""

_IMAGE_COLUMNS: Final = ("image", "mask", "seed", "mask_sha256", "note", "error")


@check_types()
@dataclass(frozen=True)
class EngineOptions:
    """Choose the engine of each actor, as :meth:`m2l_runtime.Synthesizer.open` does.

    An actor of Ray has one CPU unless it is told otherwise, so an engine has one thread. Give `threads` and `workers`
    the number that ``map_batches`` gets as `num_cpus`.

    Example:
        >>> EngineOptions(backend="onnxruntime").threads
        1
    """

    backend: str = "auto"
    device: str = "auto"
    precision: Precision = "fp32"
    batch_size: int | None = None
    """Masks per call of the engine; None: 1 on a CPU, 16 on CUDA. It is not that of `map_batches`."""
    threads: int = 1
    """CPU threads of the engine in all."""
    streams: int = 1
    """Engine calls at once."""
    workers: int = 1
    """Threads that read masks and encode images."""

    def open(self, bundle: str | os.PathLike[str] | None) -> Synthesizer:
        """Open a bundle with these options; None is the model inside the package."""
        check_workers(self.workers)
        return Synthesizer.open(
            bundle,
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
            threads=self.threads,
            streams=self.streams,
        )


def _choice(appearance: str | None) -> AppearanceChoice | None:
    return None if appearance is None else AppearanceChoice.parse(appearance)


class LesionSynthesizer:
    """Synthesize a batch of rows: a callable for ``ray.data.Dataset.map_batches``, of which each actor holds one.

    Rows in:

    - `mask`: a path, the bytes of a mask file, an array (H, W) of any kind that :func:`m2l_runtime.read_mask` takes, or
      a mapping with `bytes`, as Hugging Face datasets has images. Null is a bad mask.
    - `name`: of the mask file, relative to its folder, as `m2l synth` names it, unique in the dataset. What is left to
      chance follows from it, without its ending, and the seed.
    - `sample`, may be left out: number of the image among those of the same mask, from 1.

    Rows out have all columns that came in, and:

    - `image`: bytes of a file, those that `m2l synth` writes for the same bundle, engine, seed, name and sample. Null
      where the mask is bad.
    - `mask`: bytes of a PNG file of 0 and 255 at the image's size. Null where it is bad.
    - `seed`: uint64 of the image, as a :class:`m2l_runtime.Synthesizer` takes it; 0 where the mask is bad or the
      generator takes the mask alone.
    - `mask_sha256`, `bundle_sha256`, `description`: of the mask's file, of the bundle, and that the image is synthetic.
    - `note`: what is unusual about a legal mask: 'empty', 'full', 'inverted?'; else null.
    - `error`: why there is no image, in words, beginning with the name; null where there is one.

    One bad mask never ends a job. What is wrong with all of them, a missing column or bundle, does.

    Example:
        >>> import numpy as np
        >>> synthesize = LesionSynthesizer(engine=EngineOptions(backend="fake"))  # Ray makes one an actor
        >>> rows = synthesize({"name": np.array(["a.png", "b.png"]), "mask": np.array([b"", np.eye(64)], object)})
        >>> [image is not None for image in rows["image"]], rows["error"][1] is None
        ([False, True], True)
        >>> rows["error"][0]
        'a.png: is empty (0 bytes); expected a picture'

    With Ray::

        masks = ray.data.read_binary_files("masks/", include_paths=True)
        rows = masks.map(lambda row: {"name": os.path.basename(row["path"]), "mask": row["bytes"]})
        actors = ray.data.ActorPoolStrategy(size=2)
        rows.map_batches(LesionSynthesizer, fn_constructor_kwargs={"seed": 7}, compute=actors, batch_size=64)

    Args:
        bundle: folder of a bundle on each machine; None: the model inside the package.
        seed: the run's seed, 0..2^64-1.
        appearance: numbers by name, such as ``"lesion_L=35,ita=tan"``; None: sampled.
        encoding: format of the images; None: PNG.
        engine: what computes; None: the fastest installed, on one thread.

    Raises:
        BundleNotFound, InputError, EngineError: see :meth:`m2l_runtime.Synthesizer.open`.
        ArgumentError: an option is out of range.
    """

    @check_types()
    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        *,
        seed: int = 0,
        appearance: str | None = None,
        encoding: Encoding | None = None,
        engine: EngineOptions | None = None,
    ) -> None:
        engine = engine or EngineOptions()
        choice = _choice(appearance)
        self._synthesizer = engine.open(bundle)
        self._workers = engine.workers
        self._encoding = encoding or Encoding()
        self._conditions = Conditions(self._synthesizer.extra, seed, choice)
        self._text = self_description(self._synthesizer.bundle, self._synthesizer.settings)

    def __call__(self, batch: Batch) -> dict[str, npt.NDArray[Any]]:
        """Synthesize the rows of a batch.

        Raises:
            ArgumentError: a column is missing.
            EngineError: the engine failed.
        """
        missing = next((name for name in ("mask", "name") if name not in batch), None)
        if missing is not None:
            raise ArgumentError(
                f"rows have no column '{missing}'; expected mask and name, got {', '.join(map(str, batch)) or 'none'}"
            )
        count = len(batch["name"])
        made = {name: np.full(count, None, object) for name in _IMAGE_COLUMNS}
        made["seed"] = np.zeros(count, np.uint64)
        rows = ((place, *_row(batch, place)) for place in range(count))
        for one in overlap(rows, self._synthesizer, self._read, self._encode, workers=self._workers):
            row, mask_file = one.key, one.mask_file
            if one.encoded is None or mask_file is None:
                made["error"][row.place] = row.error
                continue
            made["image"][row.place], made["mask"][row.place] = one.encoded
            made["mask_sha256"][row.place], made["note"][row.place] = mask_file.sha256, mask_file.note
            made["seed"][row.place] = 0 if row.condition is None else row.condition.seed
        about = {
            "bundle_sha256": np.full(count, self._synthesizer.bundle.sha256, object),
            "description": np.full(count, self._text["Description"], object),
        }
        return {**batch, **made, **about}

    def _read(self, row: tuple[int, object, object, object]) -> Input[_Row]:
        place, mask, name, sample = row
        try:
            if not isinstance(name, str) or not name:
                raise MaskFileError(
                    f"row {place} of the batch: its name must be a text that is not empty, got {name!r:.40}"
                )
            condition = self._condition(name, sample)
            file = _read_mask(mask, name, self._synthesizer.image_size)
        except MaskFileError as error:
            return Input(_Row(place, error=str(error)))
        return Input(_Row(place, condition), file, condition)

    def _condition(self, name: str, sample: object) -> Condition | None:
        is_number = isinstance(sample, int | np.integer) and not isinstance(sample, bool)
        if not is_number or int(sample) < 1:  # type: ignore[call-overload]
            raise MaskFileError(f"{printable(name)}: its sample must be a number from 1, got {sample!r:.40}")
        number = int(sample)  # type: ignore[call-overload]
        if number > 1 and not self._synthesizer.extra.is_random:
            raise MaskFileError(f"{printable(name)}: the generator takes the mask alone, so its sample must be 1")
        return self._conditions.for_item(stem(name), number)

    def _encode(self, row: _Row, file: MaskFile, image: Image) -> tuple[bytes, bytes]:
        about = {} if row.condition is None else row.condition.text_fields
        encoded = encode_image(image, file.mask, self._encoding, {**self._text, **about})
        return encoded, encode_mask(file.mask)


@dataclass(frozen=True)
class _Row:
    """Hold what is known of a row when its mask has been read."""

    place: int
    condition: Condition | None = None
    error: str | None = None


def _row(batch: Batch, place: int) -> tuple[object, object, object]:
    """Return mask, name and sample of a row."""
    name = batch["name"][place]
    name = str(name) if isinstance(name, np.str_) else name
    sample = 1 if "sample" not in batch else batch["sample"][place]
    return batch["mask"][place], name, sample


def _read_mask(mask: Any, name: str, image_size: tuple[int, int]) -> MaskFile:
    """Read a mask of a row; a message begins with the row's name.

    Raises:
        MaskFileError: it is none.
    """
    if isinstance(mask, Mapping):
        mask = mask.get("bytes") if mask.get("bytes") is not None else mask.get("path")
    if mask is None or (isinstance(mask, float) and np.isnan(mask)):
        raise MaskFileError(f"{printable(name)}: there is no mask in its row")
    mask = str(mask) if isinstance(mask, np.str_) else bytes(mask) if isinstance(mask, np.bytes_) else mask
    try:
        return read_mask(mask, image_size)
    except (MaskFileError, ArrayError, ArgumentError) as error:
        words = str(error)
        if not isinstance(mask, str | os.PathLike):
            words = f"{printable(name)}: {words.removeprefix(f'{kind_of(mask)}: ')}"
        raise MaskFileError(words) from None


@check_types()
def plan_files(
    masks: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: OutputOptions | None = None,
    *,
    samples: int = 1,
    resume: bool = False,
) -> list[dict[str, Any]]:
    """List the files that a run is to write, a row for each, for :class:`LesionFileWriter`.

    Only names are listed: no mask is read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = plan_files("shapes:5", folder, OutputOptions(format="webdataset", masks_per_file=2))
        >>> [(row["number"], row["first"], len(row["names"])) for row in rows]
        [(0, 0, 2), (1, 2, 2), (2, 4, 1)]

    Args:
        masks: folder of masks, or masks to draw: ``"shapes:2000"``.
        out: folder of the files; where there are several machines, one that they share.
        options: format, images in it and masks a file; None: tars of 1,000 PNG images.
        samples: images of each mask.
        resume: whether `out` may hold an earlier run.

    Returns:
        A row for each file: its `number` from 0, the `count` of files, the `first` place and the `names` of its images.

    Raises:
        InputError: there are no masks, or one has a name that is no UTF-8.
        OutputError: `out` holds a run already, and `resume` is False.
    """
    options = _container(options)
    names = sampled(_open_masks(masks), samples).names
    if not names:
        raise InputError(f"{printable(masks)} holds no masks; expected a folder of mask files, or shapes:COUNT")
    odd = next((name for name in names if not _is_utf8(name)), None)
    if odd is not None:
        raise InputError(f"{printable(odd)} is not a name in UTF-8, which Ray needs; rename the mask")
    target = Path(out)
    earlier = [] if resume else [path for path in log_paths(target) if names_output(path)]
    if earlier:
        raise OutputError(
            f"{printable(target)} holds an earlier run ({earlier[0].relative_to(target)}); resume it (resume=True), or "
            "choose another folder"
        )
    return [
        {"number": part.number, "count": part.count, "first": part.first, "names": list(part.names)}
        for part in deal_out(names, options.masks_per_file)
    ]


def _container(options: OutputOptions | None) -> OutputOptions:
    options = options or OutputOptions(format="webdataset")
    if not options.is_container:
        raise ArgumentError(f"files hold many images in webdataset and parquet, not in {options.format}; choose one")
    return options


def _open_masks(masks: str | os.PathLike[str]) -> MaskSet:
    if isinstance(masks, str) and is_spec(masks):
        return open_source(masks)
    _require_folder(masks)
    return mask_set(masks)


def _of_one(spec: str) -> str:
    """Return what draws the same masks, but lists the name of one: each actor needs the names of its files alone.

    Shapes of principal components may depend on the count, so it stays.

    >>> _of_one("shapes:10000000,seed=3"), _of_one("pca:7,model=a,component=1")
    ('shapes:1,seed=3', 'pca:7,model=a,component=1')
    """
    kind, _, rest = spec.partition(":")
    if kind == "pca":
        return spec
    _, comma, settings = rest.partition(",")
    return f"{kind}:1{comma}{settings}"


def _require_folder(masks: str | os.PathLike[str]) -> None:
    if not Path(masks).is_dir():
        raise InputError(
            f"{printable(masks)} is no folder on this machine; expected a folder of masks that all machines share, or "
            "shapes:COUNT"
        )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class LesionFileWriter:
    """Write tars or Parquet files of lesions: a callable for ``map_batches`` over the rows of :func:`plan_files`.

    The files are those of one run of `m2l synth` with the same masks, options, seed and engine, byte for byte. Each has
    a log beside it, so `m2l synth --resume` in the same folder takes them for its own. A file appears whole or not at
    all, so a worker that dies leaves nothing that counts, and Ray calls another one.

    Example:
        >>> import tempfile
        >>> options = OutputOptions(format="webdataset", masks_per_file=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write = LesionFileWriter("shapes:3", folder, options=options, engine=EngineOptions(backend="fake"))
        ...     for row in plan_files("shapes:3", folder, options):
        ...         print(write({key: [value] for key, value in row.items()})["file"])
        ['lesions-000000.tar' 'lesions-000000.tar']
        ['lesions-000001.tar']

    Args:
        masks: as given to :func:`plan_files`; a folder must be there on each machine.
        out: likewise.
        bundle: folder of a bundle on each machine; None: the model inside the package.
        options: likewise.
        seed: the run's seed, 0..2^64-1.
        samples: likewise.
        appearance: numbers by name; None: sampled.
        resume: keep files that are what the log says, of these masks and settings.
        engine: what computes; None: the fastest installed, on one thread.

    Raises:
        InputError: the folder of masks is not on this machine.
        BundleNotFound, EngineError: see :meth:`m2l_runtime.Synthesizer.open`.
    """

    @check_types()
    def __init__(
        self,
        masks: str | os.PathLike[str],
        out: str | os.PathLike[str],
        bundle: str | os.PathLike[str] | None = None,
        *,
        options: OutputOptions | None = None,
        seed: int = 0,
        samples: int = 1,
        appearance: str | None = None,
        resume: bool = False,
        engine: EngineOptions | None = None,
    ) -> None:
        self._engine = engine or EngineOptions()
        self._options = _container(options)
        self._choice = _choice(appearance)
        self._out, self._seed, self._samples, self._resume = Path(out), seed, samples, resume
        self._synthesizer = self._engine.open(bundle)
        self._conditions = Conditions(self._synthesizer.extra, seed, self._choice, samples)
        self._masks: MaskSet
        if isinstance(masks, str) and is_spec(masks):
            self._masks = open_source(_of_one(masks), min(self._synthesizer.image_size))
        else:
            _require_folder(masks)
            self._masks = MaskFolder(Path(masks), [], False)  # names come with the rows

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Write the files of a batch.

        Returns:
            A row for each image: `name`, `file` that holds it (null where the mask is bad), `seed` (0 where the
            generator takes the mask alone or the mask is bad), `note`, and `error` (null where there is an image).

        Raises:
            OutputError: a file cannot be written, or is of another bundle.
            EngineError: the engine failed.
        """
        results: list[tuple[Part, Result]] = []
        for number, count, first, names in zip(*(batch[key] for key in _PLAN), strict=True):
            part = Part(int(number), int(count), int(first), [str(name) for name in names])
            results += ((part, result) for result in self._write(part))
        rows = [self._row(part, result) for part, result in results]
        return {key: np.array([row[key] for row in rows], kind) for key, kind in _WRITTEN.items()}

    def _write(self, part: Part) -> Iterable[Result]:
        results: list[Result] = []

        def keep(result: Result) -> None:  # without its image
            results.append(
                Result(result.name, None, None, result.output, result.note, result.problem, result.is_kept, result.seed)
            )

        synthesize_part(
            part,
            self._masks,
            self._out,
            self._synthesizer,
            self._options,
            workers=self._engine.workers,
            resume=self._resume,
            seed=self._seed,
            samples=self._samples,
            appearance=self._choice,
            callbacks=RunCallbacks(on_result=keep),
        )
        return results

    def _row(self, part: Part, result: Result) -> dict[str, object]:
        seed = result.seed
        if result.is_kept:
            names = masks_of(part, self._masks, self._samples)
            condition = condition_of(self._conditions, names, result.name)
            seed = None if condition is None else condition.seed
        return {
            "name": result.name,
            "file": result.output,
            "seed": seed or 0,
            "note": result.note,
            "error": result.problem,
        }


_PLAN: Final = ("number", "count", "first", "names")
_WRITTEN: Final[Mapping[str, Any]] = {
    "name": object,
    "file": object,
    "seed": np.uint64,
    "note": object,
    "error": object,
}
