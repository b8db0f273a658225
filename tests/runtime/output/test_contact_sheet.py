"""Contact sheets stay readable, however many pairs there are and whatever they are called."""

from __future__ import annotations

import numpy as np
import pytest
from support import disc

from m2l_runtime.output.contact_sheet import MAX_PAIRS, ContactSheet

IMAGE = np.full((256, 256, 3), 90, np.uint8)


@pytest.mark.parametrize("count", [0, 1, 2, 5, MAX_PAIRS, MAX_PAIRS + 7])
def test_contact_sheet__any_number_of_pairs(count: int) -> None:
    sheet = ContactSheet("title", "footnote")
    for index in range(count):
        sheet.add(f"{index:05}.png", disc(), IMAGE)
    picture = np.array(sheet.draw())
    assert (picture == 90).all(2).sum() >= 0.9 * 176 * 176 * min(count, MAX_PAIRS)
    assert picture.shape[0] < 4000
    assert picture.shape[1] < 1600


def test_contact_sheet__odd_names_and_sizes() -> None:
    sheet = ContactSheet("t" * 500, "f\n\x1b[31m" * 90)
    sheet.add("n" * 400 + ".png", disc(), IMAGE)
    sheet.add("a\nb\u202e\ud800 \u6f22\u5b57.png", disc()[:128], IMAGE[:128])
    assert sheet.draw().width < 1600
