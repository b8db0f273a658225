"""Draw masks and images in rows, as one labelled picture."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from m2l_runtime._utils.text import plural, printable
from m2l_runtime.types import Image, Mask

MAX_PAIRS: Final = 60
"""Pairs on a contact sheet; what comes after them is counted in the title and left out."""

_WIDE: Final = 1000
_FOOTNOTE_HEIGHT: Final = 20
_LABEL_GAP: Final = 3
_PAPER: Final = (250, 250, 248)
_INK: Final = (40, 40, 40)
_FAINT: Final = (120, 120, 120)
_EDGE: Final = (200, 200, 196)


@dataclass(frozen=True)
class Cell:
    """Hold pictures that belong together, and their label."""

    pictures: Sequence[Mask | Image]
    """uint8 arrays (H, W) or (H, W, 3)."""
    label: str = ""


@dataclass(frozen=True)
class Row:
    """Hold cells under one title."""

    title: str
    cells: Sequence[Cell]


@dataclass(frozen=True, kw_only=True)
class SheetLayout:
    """Describe where the pictures of a sheet go. All lengths are pixels."""

    tile: int
    """Longer side of each picture; it is resized to that."""
    is_beside: bool = False
    """Whether the pictures of a cell lie beside one another, not below."""
    picture_gap: int = 3
    """Between the pictures of a cell."""
    cell_gap: int = 6
    row_gap: int = 8
    title_height: int = 24
    """Of each row's title."""
    label_height: int = 18
    top: int = 16
    bottom: int = 16
    left: int = 16
    min_width: int = 480
    paper: tuple[int, int, int] = _PAPER
    edge: tuple[int, int, int] | None = None
    """Color of a frame around each picture; None: no frame."""


ROWS: Final = SheetLayout(tile=148)
"""Titled rows of cells, the pictures of a cell below one another."""

_PAIRS: Final = SheetLayout(
    tile=176,
    is_beside=True,
    picture_gap=4,
    cell_gap=16,
    title_height=0,
    label_height=19,
    top=64,
    min_width=640,
    edge=_EDGE,
)


def draw_rows(rows: Sequence[Row], footnote: str = "", layout: SheetLayout = ROWS) -> PillowImage.Image:
    """Draw rows of pictures.

    Example:
        >>> picture = np.zeros((8, 8), np.uint8)
        >>> draw_rows([Row("masks", [Cell([picture], "black")])]).size
        (480, 233)

    Args:
        rows: at least one cell in all.
        footnote: a line below them.
        layout: sizes and colors.

    Returns:
        An RGB picture.
    """
    widest = max(len(row.cells) for row in rows)
    across = max(_span(cell, layout) if layout.is_beside else layout.tile for row in rows for cell in row.cells)
    heights = [_height(row, layout) for row in rows]
    width = 2 * layout.left + widest * (across + layout.cell_gap) - layout.cell_gap
    height = layout.top + sum(heights) + layout.bottom + (_FOOTNOTE_HEIGHT if footnote else 0)
    sheet = PillowImage.new("RGB", (max(width, layout.min_width), height), layout.paper)
    pen, small = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    top = layout.top
    for row, row_height in zip(rows, heights, strict=True):
        if row.title:
            pen.text((layout.left, top), row.title, _INK, font=ImageFont.load_default(15))
        for column, cell in enumerate(row.cells):
            x, y = layout.left + column * (across + layout.cell_gap), top + layout.title_height
            for picture in cell.pictures:
                _paste(sheet, pen, picture, (x, y), layout)
                step = layout.tile + layout.picture_gap
                x, y = (x + step, y) if layout.is_beside else (x, y + step)
            if cell.label:
                place = (
                    layout.left + column * (across + layout.cell_gap),
                    top + layout.title_height + _drop(cell, layout) + _LABEL_GAP,
                )
                pen.text(place, _fit(cell.label, small, across), _INK, font=small)
        top += row_height
    if footnote:
        pen.text((layout.left, top), footnote, _FAINT, font=ImageFont.load_default(12))
    return sheet


def _paste(
    sheet: PillowImage.Image,
    pen: ImageDraw.ImageDraw,
    picture: Mask | Image,
    place: tuple[int, int],
    layout: SheetLayout,
) -> None:
    x, y = place
    tile = _resize(picture, layout.tile)
    if layout.edge is not None:
        pen.rectangle((x - 1, y - 1, x + tile.width, y + tile.height), outline=layout.edge)
    sheet.paste(tile, place)


def _span(cell: Cell, layout: SheetLayout) -> int:
    """Return the length of a cell's pictures one after the other."""
    return len(cell.pictures) * (layout.tile + layout.picture_gap) - layout.picture_gap


def _drop(cell: Cell, layout: SheetLayout) -> int:
    """Return the height of a cell's pictures."""
    return layout.tile if layout.is_beside else _span(cell, layout)


def _height(row: Row, layout: SheetLayout) -> int:
    label = _LABEL_GAP + layout.label_height if any(cell.label for cell in row.cells) else 0
    return layout.title_height + max(_drop(cell, layout) for cell in row.cells) + label + layout.row_gap


class ContactSheet:
    """Collect pairs as they come and draw the first `MAX_PAIRS` of them, mask | lesion."""

    def __init__(self, title: str, footnote: str) -> None:
        self._title, self._footnote = title, footnote
        self._cells: list[Cell] = []
        self.count = 0
        """Pairs added so far."""

    def add(self, label: str, mask: Mask, image: Image) -> None:
        """Add a pair: mask (H, W) uint8, image (H, W, 3) uint8. Both are copied at the sheet's size."""
        self.count += 1
        if self.count <= MAX_PAIRS:
            tiles = [np.asarray(_resize(picture, _PAIRS.tile)) for picture in (mask, image)]
            self._cells.append(Cell(tiles, label))

    def draw(self) -> PillowImage.Image:
        """Draw the sheet as an RGB picture."""
        columns = max(1, min(4, math.ceil(math.sqrt(len(self._cells)))))
        rows = [Row("", self._cells[begin : begin + columns]) for begin in range(0, len(self._cells), columns)]
        sheet = draw_rows(rows or [Row("", [Cell([], " ")])], layout=_PAIRS)
        width = sheet.width
        pen, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(17), ImageFont.load_default(13)
        left_out = self.count - len(self._cells)
        title = f"{self._title}   mask | lesion" + (
            f"   (first {len(self._cells)} of {plural(self.count, 'pair')})" if left_out else ""
        )
        text_width = width - 2 * _PAIRS.left
        pen.text((_PAIRS.left, 8), _fit(title, large, text_width), _INK, font=large)
        footnote = self._footnote.replace(". ", ".\n", 1) if width < _WIDE else self._footnote
        for line, text in enumerate(footnote.split("\n")):
            pen.text((_PAIRS.left, 28 + 15 * line), _fit(text, small, text_width), _FAINT, font=small)
        return sheet


def _resize(array: Mask | Image, side: int) -> PillowImage.Image:
    picture = PillowImage.fromarray(np.ascontiguousarray(array)).convert("RGB")
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, PillowImage.Resampling.LANCZOS)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut `text` in the middle until it is at most `width` pixels wide, in letters that the font has."""
    plain = unicodedata.normalize("NFKD", printable(text))  # accents apart from their letters
    text = "".join(c if c.isascii() else "?" for c in plain if not unicodedata.combining(c))
    head, tail = len(text) // 2, len(text) - len(text) // 2
    shown = text
    while font.getlength(shown) > width and head + tail > 2:
        head, tail = (head - 1, tail) if head >= tail else (head, tail - 1)
        shown = f"{text[:head]}...{text[len(text) - tail :]}"
    return shown
