"""Describe a bundle to the page: what it draws, which inputs it takes, and what to say of its images."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import printable
from m2l_runtime._version import __version__
from m2l_runtime.bundle.io import Bundle
from m2l_runtime.conditioning import skin_tone
from m2l_runtime.conditioning.conditions import NEAREST_FRACTION, Appearances, sampled_appearances, value_range
from m2l_runtime.conditioning.numbers import NUMBERS
from m2l_runtime.errors import ArgumentError
from m2l_runtime.output.encoding import SYNTHETIC
from m2l_runtime.types import STYLE_NAMES

PageMode: TypeAlias = Literal["server", "browser"]
"""Where the page's images are made.

Example:
    >>> mode: PageMode = "browser"
"""

NOTICE: Final = "Synthetic image, not for diagnosis"
"""What stays in view."""

SWITCHES: Final = {"hair": "Hair", "ink": "Ink marks", "vignette": "Dark corners"}
"""Numbers that are 0 where there is nothing of the kind: a person asks for images with it or without it."""

VARIATIONS: Final = 8
"""Images of one mask that the page shows beside one another."""

_SMOOTHLY: Final = (0.02, 0.98)
"""Quantiles of the training images between which a slider moves."""

_TYPICAL: Final = 0.75
"""Quantile, of the training images that have it, which stands for `with it`."""


@check_types()
def page_config(bundle: Bundle, *, mode: PageMode = "server") -> dict[str, Any]:
    """Describe a bundle to the page, as what its ``config.json`` holds.

    Example:
        >>> from m2l_runtime import Synthesizer
        >>> config = page_config(Synthesizer.open(backend="fake").bundle)  # of the model inside the package
        >>> config["mode"], config["image_size"], config["notice"]
        ('server', [256, 256], 'Synthetic image, not for diagnosis')
        >>> config["appearance"]["numbers"][0]["name"]
        'lesion_L'

    Args:
        bundle: opened. Its table of appearances is read, if it has one.
        mode: where images are made.

    Returns:
        What JSON can hold. `appearance` is None where the generator takes none, else the numbers, each with its
        meaning, unit, range, and the part of the range that training images cover.

    Raises:
        BundleDamaged: the table of appearances is not what the manifest says.
        ArgumentError: there is no such mode.
    """
    if mode not in get_args(PageMode):
        raise ArgumentError(f"mode must be one of {', '.join(get_args(PageMode))}, got {printable(str(mode)[:40])}")
    manifest = bundle.manifest
    return {
        "mode": mode,
        "version": __version__,
        "bundle": {"name": manifest.name, "sha256": bundle.sha256},
        "image_size": list(manifest.image_size),
        "resampling": {"filter": manifest.resampling.filter, "fit": manifest.resampling.fit},
        "inputs": [
            {"name": spec.name, "role": spec.role, "dtype": spec.dtype, "shape": list(spec.shape)}
            for spec in manifest.inputs
        ],
        "output": manifest.outputs[0].name,
        "is_random": len(manifest.inputs) > 1,
        "random_orientation": manifest.random_orientation,
        "variations": VARIATIONS,
        "name": "drawing",
        "appearance": _appearance(bundle),
        "notice": NOTICE,
        "description": SYNTHETIC,
    }


def _appearance(bundle: Bundle) -> dict[str, Any] | None:
    if bundle.manifest.appearance is None or bundle.manifest.input("appearance") is None:
        return None
    names, table = bundle.manifest.appearance.names, sampled_appearances(bundle)
    has_angle = all(column in names for column in skin_tone.COLUMNS)
    return {
        "names": list(names),
        "numbers": [_number(name, table[:, place]) for place, name in enumerate(names)],
        "nearest_fraction": NEAREST_FRACTION,
        "skin_tone": _skin_tone() if has_angle else None,
    }


def _number(name: str, column: Appearances) -> dict[str, Any]:
    """Describe one number of an appearance, and which part of its range the training images cover."""
    number, (low, high) = NUMBERS[name], value_range(name)
    smooth = np.quantile(column, _SMOOTHLY)
    present = column[column > 0]
    is_switch = name in SWITCHES and present.size > 0
    return {
        "name": name,
        "label": SWITCHES.get(name) or _label(name),
        "meaning": number.meaning,
        "unit": number.unit,
        "low": low,
        "high": high,
        "covered": [round(float(bound), 2) for bound in smooth],
        "group": _group(name),
        "with": round(float(np.quantile(present, _TYPICAL)), 2) if is_switch else None,
    }


def _group(name: str) -> str:
    """Say where on the page a number is: among the first, the finer ones, or what only training can measure."""
    if name in SWITCHES:
        return "switches"
    if name in STYLE_NAMES:
        return "styles"
    return "spread" if "spread" in name else "main"


def _label(name: str) -> str:
    """Name a number for a person.

    Example:
        >>> _label("skin_spread_L"), _label("lesion_detail"), _label("style_3")
        ('Skin, spread of L*', 'Lesion detail', 'Style 3')
    """
    words = name.split("_")
    if words[-1] in ("L", "a", "b"):
        what = {"L": "lightness", "a": "red–green", "b": "yellow–blue"}[words[-1]]
        return (
            f"{words[0].capitalize()}, spread of {words[-1]}*"
            if "spread" in words
            else f"{words[0].capitalize()} {what}"
        )
    return " ".join(words).capitalize()


def _skin_tone() -> dict[str, Any]:
    low, high = value_range(skin_tone.ITA)
    return {
        "name": skin_tone.ITA,
        "label": "Skin tone",
        "meaning": "individual typology angle, in degrees",
        "low": low,
        "high": high,
        "replaces": list(skin_tone.COLUMNS),
        "classes": [{"label": name.capitalize(), "angle": angle} for name, angle in skin_tone.CLASSES.items()],
    }
