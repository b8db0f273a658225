"""Draw rows of masks and images as one labelled image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from m2l_runtime.output.contact_sheet import FAINT, INK, PAPER
from m2l_runtime.types import Image, Mask

_TILE: Final = 148
_GAP: Final = 6
_MARGIN: Final = 16
_TITLE_HEIGHT: Final = 24
_LABEL_HEIGHT: Final = 18


@dataclass(frozen=True)
class Cell:
    """Hold one mask of a row, with its label and image."""

    mask: Mask
    """uint8 (H, W)."""
    label: str = ""
    image: Image | None = None
    """uint8 (H, W, 3), shown below the mask."""


@dataclass(frozen=True)
class Row:
    """Hold the cells under one title."""

    title: str
    cells: Sequence[Cell]


def draw_rows(rows: Sequence[Row], footnote: str = "") -> PillowImage.Image:
    """Draw all rows as one RGB image."""
    widest = max(len(row.cells) for row in rows)
    heights = [_height(row) for row in rows]
    width = 2 * _MARGIN + widest * (_TILE + _GAP) - _GAP
    sheet = PillowImage.new("RGB", (max(width, 480), sum(heights) + 2 * _MARGIN + (20 if footnote else 0)), PAPER)
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(12)
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        pen.text((_MARGIN, top), row.title, INK, font=font)
        for column, cell in enumerate(row.cells):
            left, y = _MARGIN + column * (_TILE + _GAP), top + _TITLE_HEIGHT
            for picture in (cell.mask, cell.image):
                if picture is not None:
                    sheet.paste(_tile(picture), (left, y))
                    y += _TILE + _GAP // 2
            if cell.label:
                pen.text((left + 2, y), cell.label, FAINT, font=small)
        top += height
    if footnote:
        pen.text((_MARGIN, top), footnote, FAINT, font=small)
    return sheet


def _height(row: Row) -> int:
    tiles = 2 if any(cell.image is not None for cell in row.cells) else 1
    label = _LABEL_HEIGHT if any(cell.label for cell in row.cells) else 0
    return _TITLE_HEIGHT + tiles * (_TILE + _GAP // 2) + label + _MARGIN // 2


def _tile(array: Mask | Image) -> PillowImage.Image:
    picture = PillowImage.fromarray(np.ascontiguousarray(array)).convert("RGB")
    return picture.resize((_TILE, _TILE), PillowImage.Resampling.LANCZOS)
