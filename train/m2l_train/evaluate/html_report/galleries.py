"""Choose and arrange the pictures of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from m2l_runtime import Synthesizer
from m2l_runtime._utils.text import plural, printable
from m2l_runtime.conditioning.conditions import Conditions, stack_conditions
from m2l_runtime.conditioning.numbers import NUMBERS
from m2l_runtime.errors import kind_of
from m2l_runtime.types import Images, Mask, Masks
from m2l_train.data.pairing import Pair
from m2l_train.data.photograph import PairError, read_pair
from m2l_train.evaluate import sets
from m2l_train.evaluate.comparison import synthesize_second
from m2l_train.evaluate.html_report.pictures import (
    FOUND_COLOR,
    MASK_COLOR,
    Gallery,
    Picture,
    PictureRow,
    mask_picture,
    no_picture,
    outlined,
    photograph,
)
from m2l_train.evaluate.html_report.results import Column, LoadedResult
from m2l_train.evaluate.html_report.sources import SourceMissing, Sources, describe_difference
from m2l_train.evaluate.inputs import EvaluationData, read_folders, synthesize_with_bundle
from m2l_train.evaluate.metrics import mask_fidelity
from m2l_train.evaluate.result import Comparison, Evaluation

SWITCHES: Final = ("hair", "ink", "vignette")
"""Numbers of an appearance that switch artefacts on and off."""
SWITCH_STEPS: Final = 4
_FAR: Final = 0.98
"""Quantile of the training images at which a switch is fully on."""
SHEET_MASKS: Final = 2


@dataclass(frozen=True)
class ResultGalleries:
    """Hold the galleries of one result."""

    label: str
    galleries: tuple[Gallery, ...]
    notes: tuple[str, ...]
    """What is left out and why, and what should be known of the pictures."""


def make_galleries(loaded: LoadedResult, sources: Sources) -> ResultGalleries:
    """Make the galleries of one result, of all that was given.

    Args:
        loaded: an evaluation or a comparison.
        sources: what was given beside it.

    Raises:
        InputError: the data is not what the result was measured on.
        EvaluationStopped: the options say to stop.
    """
    document = loaded.document
    label = loaded.labels[0] if isinstance(document, Evaluation) else " and ".join(loaded.labels)
    try:
        if isinstance(document, Comparison):
            return _of_comparison(label, loaded, document, sources)
        if isinstance(document, Evaluation):
            return _of_evaluation(label, loaded.columns[0], document, sources)
        raise TypeError(f"there are no pictures of {kind_of(document)}")
    except SourceMissing as missing:
        return ResultGalleries(label, (), (f"No pictures: {missing}.",))


def _of_evaluation(label: str, column: Column, evaluation: Evaluation, sources: Sources) -> ResultGalleries:
    data, options = sources.require_data(label), sources.evaluation_options(column.provenance)
    say, sheets, notes = sources.options.on_note, list[Gallery](), list[str]()
    if column.provenance.engine is None:
        folder = sources.folder_of(column)
        say(f"reading the images of {label}")
        found = read_folders(folder, data, options, [])
        sheets.append(
            Gallery("Appearances, switches and seeds", "", missing="These images come from files, no bundle.")
        )
    else:
        with sources.open_bundle(column) as synthesizer:
            say(f"synthesizing from {plural(column.counts.synthesized, 'mask')} with {label}")
            appearance, notes = _appearance(column)
            found = synthesize_with_bundle(data, synthesizer, options, appearance)
            sheets += _sheets(synthesizer, found, sources.options.pictures)
    notes += [*describe_difference(column, found), *_unreadable(found)]
    count = sources.options.pictures
    galleries = [
        _pairs(found, _spread(len(found.names), count)),
        *_by_fidelity(found, column, sources, count),
        _neighbors(found, evaluation, count),
        *_told_apart(found, evaluation),
        *sheets,
    ]
    return ResultGalleries(label, tuple(galleries), tuple(notes))


def _appearance(column: Column) -> tuple[str | None, list[str]]:
    """Return the appearance that was asked for, as its query, and a note where the result does not hold it."""
    label = column.provenance.appearance
    if label is None or label == "drawn":
        return None, []
    if "BLAKE2b" in label:
        return None, [f"The appearance that was measured ({printable(label)}) is not in the result; others are drawn."]
    return label, []


def _of_comparison(label: str, loaded: LoadedResult, comparison: Comparison, sources: Sources) -> ResultGalleries:
    data, (one, other) = sources.require_data(label), loaded.columns
    options = sources.evaluation_options(one.provenance)
    with sources.open_bundle(one) as first, sources.open_bundle(other) as second:
        sources.options.on_note(f"synthesizing from {plural(one.counts.synthesized, 'mask')} with {label}")
        found = synthesize_with_bundle(data, first, options)
        theirs = synthesize_second(found, first, second, comparison.appearances or "own", options)
    notes = [*describe_difference(one, found), *describe_difference(other, theirs), *_unreadable(found)]
    rows = [
        PictureRow(
            printable(found.names[i]),
            (
                _mask(found, i),
                _synthesized(found, i, "A"),
                _synthesized(theirs, i, "B"),
                _real(found, i),
            ),
        )
        for i in _spread(len(found.names), sources.options.pictures)
    ]
    intro = "The same masks, seeds" + (" and appearances" if comparison.appearances == "shared" else "")
    gallery = Gallery("Side by side", f"{intro} for A and B, and the real image of the mask.", tuple(rows))
    return ResultGalleries(label, (gallery,), tuple(notes))


def _unreadable(found: EvaluationData) -> list[str]:
    return [f"Left out: {problem}." for problem in found.real.problems]


def _spread(count: int, wanted: int) -> list[int]:
    """Choose places spread evenly over 0..count-1."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(wanted, count))})


def _mask(found: EvaluationData, i: int) -> Picture:
    return mask_picture(found.real.masks[i], "mask", f"Mask {printable(found.names[i])}")


def _synthesized(found: EvaluationData, i: int, label: str = "synthesized") -> Picture:
    side = f" by {label}" if label in ("A", "B") else ""
    return photograph(found.generated[i], label, f"Image synthesized{side} from the mask {printable(found.names[i])}")


def _real(found: EvaluationData, i: int) -> Picture:
    return photograph(found.real.images[i], "real", f"Real image {printable(found.names[i])}")


def _pairs(found: EvaluationData, places: Sequence[int]) -> Gallery:
    intro = "The mask, the image synthesized from it, and the real image that the mask was drawn on."
    if not found.files.has_masks:
        return Gallery(
            "From mask to image", intro, missing="The real images have no masks, so nothing belongs together."
        )
    rows = [
        PictureRow(printable(found.names[i]), (_mask(found, i), _synthesized(found, i), _real(found, i)))
        for i in places
    ]
    return Gallery("From mask to image", f"{intro} Spread evenly over all names, not chosen by eye.", tuple(rows))


def _by_fidelity(found: EvaluationData, column: Column, sources: Sources, count: int) -> list[Gallery]:
    titles = ("Mask followed worst", "Mask followed best")
    segmenter = sources.segmenter
    if segmenter is None or not found.files.has_masks:
        reason = (
            "No segmenter was given; add --segmenter FILE." if segmenter is None else "The real images have no masks."
        )
        return [Gallery("Mask followed best and worst", "", missing=reason)]
    sources.options.on_note("looking for lesions with the segmenter")
    lesions, _ = segmenter(found.generated, workers=sources.options.worker_count)
    fidelity = mask_fidelity.compare(found.real.masks, lesions, workers=sources.options.worker_count)
    order = [int(i) for i in np.argsort(fidelity.dice, kind="stable")]
    half = max(1, min(count, len(order) // 2))
    other = ""
    if column.provenance.segmenter_sha256 not in (None, segmenter.sha256):
        other = " The segmenter given is not the one that the figures were measured with."
    return [
        Gallery(
            title,
            "By the Dice coefficient of the mask (white outline) and the lesion that the segmenter finds (yellow)."
            + other,
            tuple(_fidelity_row(found, i, lesions[i] >= mask_fidelity.LIKELY_FROM, fidelity.dice[i]) for i in places),
        )
        for title, places in zip(titles, (order[:half], order[::-1][:half]), strict=True)
    ]


def _fidelity_row(found: EvaluationData, i: int, lesion: npt.NDArray[np.bool_], dice: float) -> PictureRow:
    name, mask = printable(found.names[i]), found.real.masks[i] >= mask_fidelity.LESION_FROM
    drawn = outlined(found.generated[i], (mask, MASK_COLOR), (lesion, FOUND_COLOR))
    outlines = photograph(drawn, "outlines", f"Outlines of mask and lesion found, on the image synthesized from {name}")
    return PictureRow(f"{name}: Dice {dice:.3f}", (_synthesized(found, i), outlines, _real(found, i)))


def _neighbors(found: EvaluationData, evaluation: Evaluation, count: int) -> Gallery:
    title, intro = (
        "Nearest training images",
        (
            "The synthesized images that are nearest to a training image, and that image: compared at 32 pixels, "
            "turned or mirrored if that is nearer. A copy would be near 0 levels."
        ),
    )
    if not evaluation.closest:
        return Gallery(title, intro, missing="The result has none: there was no training split.")
    place = {name: i for i, name in enumerate(found.names)}
    training = {pair.name: pair for pair in found.files.reference}
    rows = []
    for near in evaluation.closest[:count]:
        i, pair = place.get(near.synthesized), training.get(near.training)
        made = (
            no_picture(f"{printable(near.synthesized)} is not in the data given")
            if i is None
            else _synthesized(found, i)
        )
        theirs = (
            no_picture(f"{printable(near.training)} is not in the training split of the data given")
            if pair is None
            else _training(pair, found)
        )
        caption = f"{printable(near.synthesized)} to {printable(near.training)}: {near.levels:.1f} levels"
        rows.append(PictureRow(caption, (made, theirs)))
    return Gallery(title, intro, tuple(rows))


def _training(pair: Pair, found: EvaluationData) -> Picture:
    size = (found.generated.shape[1], found.generated.shape[2])
    try:
        if found.files.has_masks:
            image = read_pair(pair, size, mask_is_left=found.files.mask_is_left).image
        else:
            image = sets.read_photograph(pair.image, size)
    except PairError as error:
        return no_picture(str(error))
    return photograph(image, "training", f"Training image {printable(pair.name)}")


def _told_apart(found: EvaluationData, evaluation: Evaluation) -> Iterator[Gallery]:
    title = "Told apart most surely"
    if not evaluation.told_apart:
        reason = evaluation.figures["two_sample_auc"].reason if "two_sample_auc" in evaluation.figures else None
        yield Gallery(title, "", missing=f"Not measured: {printable(reason or 'the result has none')}.")
        return
    for is_synthesized, what in ((True, "synthesized"), (False, "real")):
        told = [image for image in evaluation.told_apart if image.is_synthesized is is_synthesized]
        names = found.names if is_synthesized else found.real.names
        place = {name: i for i, name in enumerate(names)}
        pictures = []
        for image in told:
            i, name = place.get(image.name), printable(image.name)
            if i is None:
                pictures.append(no_picture(f"{name} is not in the data given"))
            else:
                shown = found.generated[i] if is_synthesized else found.real.images[i]
                pictures.append(photograph(shown, name, f"{what.capitalize()} image {name}"))
        intro = (
            f"The {what} images of which the classifier is surest, the surest first. What they have in common gives "
            "them away."
        )
        yield Gallery(f"{title}: {what}", intro, (PictureRow("", tuple(pictures)),))


def _sheets(synthesizer: Synthesizer, found: EvaluationData, count: int) -> list[Gallery]:
    """Draw what a bundle makes of a few masks under other appearances, switches and seeds."""
    area = (found.real.masks >= mask_fidelity.LESION_FROM).mean((1, 2))
    order = np.argsort(area, kind="stable")
    places = list(dict.fromkeys(int(order[(k + 1) * len(order) // (SHEET_MASKS + 1)]) for k in range(SHEET_MASKS)))
    sheet = _Sheet(synthesizer, found, places, min(count, 6))
    return [sheet.appearances(), sheet.switches(), sheet.seeds()]


class _Sheet:
    """Synthesize from a few masks again and again."""

    def __init__(self, synthesizer: Synthesizer, found: EvaluationData, places: Sequence[int], count: int) -> None:
        self._synthesizer, self._count = synthesizer, count
        self._names = [printable(found.names[i]) for i in places]
        self._masks: Masks = found.real.masks[list(places)]
        self._conditions = found.conditions or Conditions(synthesizer.extra)
        self._own = [self._conditions.for_item(found.names[i]) for i in places]

    def _row(
        self,
        mask: int,
        caption: str,
        seeds: Sequence[int] | None,
        appearances: npt.NDArray[np.float32] | None,
        labels: Sequence[str],
        alt: Callable[[str], str],
    ) -> PictureRow:
        masks = np.repeat(self._masks[mask : mask + 1], len(labels), 0)
        images: Images = self._synthesizer.synthesize_checked(masks, seeds, appearances)
        shown = [self._mask(mask)]
        shown += [photograph(image, label, alt(label)) for image, label in zip(images, labels, strict=True)]
        return PictureRow(caption, tuple(shown))

    def _mask(self, i: int) -> Picture:
        mask: Mask = self._masks[i]
        return mask_picture(mask, "mask", f"Mask {self._names[i]}")

    def appearances(self) -> Gallery:
        title, intro = "Appearances", "One mask under appearances drawn from the training images, with one seed."
        if not self._synthesizer.appearance_names:
            return Gallery(title, intro, missing="The generator of this bundle takes no appearance.")
        drawn = [self._conditions.for_item(f"appearance {k}") for k in range(1, self._count + 1)]
        _, appearances = stack_conditions(drawn)
        rows = []
        for i, (name, own) in enumerate(zip(self._names, self._own, strict=True)):
            seeds = None if own is None else [own.seed] * self._count
            labels = [f"appearance {k}" for k in range(1, self._count + 1)]
            rows.append(
                self._row(i, name, seeds, appearances, labels, lambda label, name=name: f"{name} under {label}")  # type: ignore[misc]
            )
        return Gallery(title, intro, tuple(rows))

    def switches(self) -> Gallery:
        title, intro = (
            "Artefact switches",
            (
                "One mask, seed and appearance; one number is turned from the least to nearly the most that training "
                "images have, the others stay."
            ),
        )
        names = self._synthesizer.appearance_names
        switches = [name for name in SWITCHES if name in names]
        own, table = self._own[0], self._synthesizer.extra.table
        if not switches or own is None or own.appearance is None or table is None:
            return Gallery(
                title, intro, missing=f"The appearances of this bundle have no numbers such as {', '.join(SWITCHES)}."
            )
        rows = []
        for switch in switches:
            column = names.index(switch)
            steps = np.linspace(table[:, column].min(), np.quantile(table[:, column], _FAR), SWITCH_STEPS)
            appearances = np.repeat(own.appearance[None], SWITCH_STEPS, 0)
            appearances[:, column] = steps
            caption = f"{switch}: {NUMBERS[switch].meaning}, {NUMBERS[switch].unit}"
            labels = [f"{switch} {step:.1f}" for step in steps]
            seeds = [own.seed] * SWITCH_STEPS
            rows.append(self._row(0, caption, seeds, appearances, labels, lambda label: f"{self._names[0]}, {label}"))
        return Gallery(title, intro, tuple(rows))

    def seeds(self) -> Gallery:
        title, intro = "Seeds", "One mask and appearance under several seeds: what noise or dropout alone changes."
        roles = {spec.role for spec in self._synthesizer.bundle.manifest.inputs} - {"mask", "appearance"}
        if not roles:
            return Gallery(title, intro, missing="Seeds of this bundle choose the appearance, or nothing at all.")
        rows = []
        for i, (name, own) in enumerate(zip(self._names, self._own, strict=True)):
            appearances = None
            if own is not None and own.appearance is not None:
                appearances = np.repeat(own.appearance[None], self._count, 0)
            labels = [f"seed {k}" for k in range(self._count)]
            rows.append(
                self._row(i, name, range(self._count), appearances, labels, lambda label, name=name: f"{name}, {label}")  # type: ignore[misc]
            )
        return Gallery(title, intro, tuple(rows))
