"""Draw masks and images side by side into one labeled picture."""

from __future__ import annotations

import math
import unicodedata
from typing import Final

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from m2l_runtime._utils.text import plural, printable
from m2l_runtime.types import Image, Mask

MAX_PAIRS: Final = 60
"""Most pairs on a sheet. Later ones are left out and counted in the title."""

_TILE: Final = 176
_GAP: Final = 4
_LABEL_HEIGHT: Final = 22
_MARGIN: Final = 16
_TITLE_HEIGHT: Final = 64
_WIDE: Final = 1000
PAPER: Final = (250, 250, 248)
INK: Final = (40, 40, 40)
FAINT: Final = (120, 120, 120)
_EDGE: Final = (200, 200, 196)


class ContactSheet:
    """Collect pairs as they come and draw the first `MAX_PAIRS` of them."""

    def __init__(self, title: str, footnote: str) -> None:
        self._title, self._footnote = title, footnote
        self._pairs: list[tuple[str, PillowImage.Image, PillowImage.Image]] = []
        self.count = 0
        """Pairs added so far."""

    def add(self, label: str, mask: Mask, image: Image) -> None:
        """Add a pair: mask (H, W) uint8, image (H, W, 3) uint8. Both are copied at the sheet's size."""
        self.count += 1
        if self.count <= MAX_PAIRS:
            self._pairs.append((label, _tile(mask), _tile(image)))

    def draw(self) -> PillowImage.Image:
        """Draw the sheet as an RGB picture."""
        columns = max(1, min(4, math.ceil(math.sqrt(len(self._pairs)))))
        rows = max(1, math.ceil(len(self._pairs) / columns))
        cell_width, cell_height = 2 * _TILE + _GAP + _MARGIN, _TILE + _LABEL_HEIGHT + _MARGIN // 2
        width = max(_MARGIN + columns * cell_width, 640)
        sheet = PillowImage.new("RGB", (width, _TITLE_HEIGHT + rows * cell_height + _MARGIN), PAPER)
        pen = ImageDraw.Draw(sheet)
        large, small = ImageFont.load_default(17), ImageFont.load_default(13)
        left_out = self.count - len(self._pairs)
        title = f"{self._title}   mask | lesion" + (
            f"   (first {len(self._pairs)} of {plural(self.count, 'pair')})" if left_out else ""
        )
        pen.text((_MARGIN, 8), _fit(title, large, width - 2 * _MARGIN), INK, font=large)
        footnote = self._footnote.replace(". ", ".\n", 1) if width < _WIDE else self._footnote
        for line, text in enumerate(footnote.split("\n")):
            pen.text((_MARGIN, 28 + 15 * line), _fit(text, small, width - 2 * _MARGIN), FAINT, font=small)
        for index, (label, mask, image) in enumerate(self._pairs):
            x = _MARGIN + (index % columns) * cell_width
            y = _TITLE_HEIGHT + (index // columns) * cell_height
            for offset, picture in ((0, mask), (_TILE + _GAP, image)):
                pen.rectangle((x + offset - 1, y - 1, x + offset + _TILE, y + _TILE), outline=_EDGE)
                sheet.paste(picture, (x + offset, y))
            pen.text((x, y + _TILE + 3), _fit(label, small, 2 * _TILE + _GAP), INK, font=small)
        return sheet


def _tile(array: Mask | Image) -> PillowImage.Image:
    picture = PillowImage.fromarray(np.ascontiguousarray(array)).convert("RGB")
    scale = _TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, PillowImage.Resampling.LANCZOS)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut `text`, in letters the font has, in the middle until it is at most `width` pixels wide."""
    plain = unicodedata.normalize("NFKD", printable(text))  # accents apart from their letters
    text = "".join(c if c.isascii() else "?" for c in plain if not unicodedata.combining(c))
    head, tail = len(text) // 2, len(text) - len(text) // 2
    shown = text
    while font.getlength(shown) > width and head + tail > 2:
        head, tail = (head - 1, tail) if head >= tail else (head, tail - 1)
        shown = f"{text[:head]}...{text[len(text) - tail :]}"
    return shown
