"""Draw the images that a classifier tells most surely from those of the other side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from m2l_runtime._utils import atomic
from m2l_runtime.output.contact_sheet import Cell, Row, draw_rows
from m2l_train.evaluate.context import EvaluationInputs
from m2l_train.evaluate.result import ToldApart

_QUALITY: Final = 88


def write_told_apart(path: Path, inputs: EvaluationInputs, told: Sequence[ToldApart]) -> None:
    """Draw a row of synthesized images and one of real ones, the surest first; at least one in all.

    Raises:
        OutputError: it could not be written.
    """
    rows = []
    for is_synthesized, title, names, images in (
        (True, "synthesized, told most surely as such", inputs.names, inputs.generated),
        (False, "real, told most surely as such", inputs.real.names, inputs.real.images),
    ):
        place = {name: i for i, name in enumerate(names)}
        cells = [
            Cell([images[place[image.name]]], image.name) for image in told if image.is_synthesized is is_synthesized
        ]
        rows.append(Row(title, cells))
    file = io.BytesIO()
    draw_rows(rows).save(file, "PNG" if path.suffix.lower() == ".png" else "JPEG", quality=_QUALITY)
    atomic.write_file(path, file.getvalue())
