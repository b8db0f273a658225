"""Define the arms of the experiment: what a segmenter is trained on.

The first four are those of Abhishek and Hamarneh, "Mask2Lesion: Mask-Constrained Adversarial Skin Lesion Image
Synthesis", SASHIMI 2019, arXiv:1906.05845.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from m2l_runtime._utils.text import printable
from m2l_runtime.errors import InputError


@dataclass(frozen=True)
class Arm:
    """Describe what a segmenter is trained on.

    Example:
        >>> ARMS["AllAug"].uses_synthesized, ARMS["ClassicAug"].uses_synthesized
        (True, False)
    """

    name: str
    uses_real: bool
    """Whether it is trained on real pairs. All arms choose their best step on real pairs."""
    uses_synthesized: bool
    augments: bool
    """Whether pairs are turned and mirrored, and their light and color moved."""
    description: str


ARMS: Final = {
    arm.name: arm
    for arm in (
        Arm("NoAug", True, False, False, "real pairs as they are"),
        Arm("ClassicAug", True, False, True, "real pairs turned and mirrored, light and color moved"),
        Arm("Mask2LesionAug", True, True, False, "real and synthesized pairs as they are"),
        Arm("AllAug", True, True, True, "real and synthesized pairs, both as in ClassicAug"),
        Arm("SyntheticOnly", False, True, True, "synthesized pairs alone, as in ClassicAug"),
    )
}
"""Arms by name, in the order of tables."""

BASELINES: Final = ("ClassicAug", "NoAug")
"""Arms that the others are compared with."""


def find_arm(name: str) -> Arm:
    """Find an arm by its name, in any letter case.

    Example:
        >>> find_arm("allaug").name
        'AllAug'

    Raises:
        InputError: there is none.
    """
    arm = next((arm for arm in ARMS.values() if arm.name.lower() == name.strip().lower()), None)
    if arm is None:
        raise InputError(f"there is no arm '{printable(name[:40])}'; expected some of {', '.join(ARMS)}")
    return arm


def comparisons(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """List (arm, baseline) of each comparison among the arms named; ClassicAug with NoAug once.

    Example:
        >>> comparisons(("NoAug", "ClassicAug", "AllAug"))
        [('AllAug', 'ClassicAug'), ('ClassicAug', 'NoAug'), ('AllAug', 'NoAug')]
    """
    return [
        (arm, baseline)
        for place, baseline in enumerate(BASELINES)
        if baseline in names
        for arm in names
        if arm not in (baseline, *BASELINES[place + 1 :])
    ]
