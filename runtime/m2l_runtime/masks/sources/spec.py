"""Parse a line of text that says which masks to draw, for commands that take masks.

``KIND:COUNT`` and options: ``shapes:200,kinds=star+blob,seed=3``, ``deform:500,masks=FOLDER,alpha=0.5``,
``pca:300,model=FILE``, ``pca:7,model=FILE,component=1``. Options are the fields of `Shapes`, `DeformOptions`,
`RandomShapes` and `AlongComponent`. A folder or file named here must have no comma in its name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from m2l_runtime._utils.arguments import check_types
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import ArgumentError
from m2l_runtime.masks.mask_folder import DRAWN_KINDS
from m2l_runtime.masks.sources.mask_source import DrawnMasks, MaskSource, not_installed

_SPEC: Final = re.compile(r"(shapes|deform|pca):(\d{1,9})((?:,[^,]*)*)", re.DOTALL)
_SHAPES: Final[Mapping[str, Callable[[str], Any]]] = {
    "kinds": lambda text: tuple(text.split("+")),
    "size": int,
    "smallest": float,
    "largest": float,
    "seed": int,
}
_DEFORM: Final[Mapping[str, Callable[[str], Any]]] = {
    "masks": str,
    "control_points": int,
    "range": float,
    "modes": int,
    "alpha": float,
    "size": int,
    "seed": int,
}
_PCA: Final[Mapping[str, Callable[[str], Any]]] = {
    "model": str,
    "component": int,
    "sigmas": float,
    "size": int,
    "seed": int,
}


def is_spec(text: str) -> bool:
    """Tell whether `text` asks for drawn masks, right or wrong, rather than names an existing file or folder."""
    return text.lower().startswith(tuple(f"{kind}:" for kind in DRAWN_KINDS)) and not os.path.lexists(text)


@check_types()
def open_source(text: str, size: int = 256) -> DrawnMasks:
    """Open the masks that `text` asks for.

    Example:
        >>> masks = open_source("shapes:200,kinds=star+blob,seed=3")
        >>> len(masks.names), masks.names[1]
        (200, '000001-blob.png')

    Args:
        text: ``KIND:COUNT`` and options, such as ``shapes:200,seed=3``, ``deform:500,masks=FOLDER,alpha=0.5``,
            ``pca:300,model=FILE`` or ``pca:7,model=FILE,component=1``.
        size: side of the masks in pixels, unless `text` gives it.

    Raises:
        InputError: `text` is not of this kind, or an option is unknown or out of range.
        EngineNotInstalled: SciPy is needed and missing.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ArgumentError(
            f"'{printable(text[:80])}' does not say what to draw; expected KIND:COUNT,SETTING=VALUE,... as in "
            "shapes:200,seed=3"
        )
    kind, count, rest = match[1], int(match[2]), match[3]
    words = [part for part in rest.split(",") if part]
    known = {"shapes": _SHAPES, "deform": _DEFORM, "pca": _PCA}[kind]
    settings: dict[str, Any] = {"size": size}
    given: set[str] = set()
    for word in words:
        name, equals, value = word.partition("=")
        if name in given:
            raise ArgumentError(f"{kind}: {name} is given twice")
        given.add(name)
        if name in known and not value:
            raise ArgumentError(f"{kind}: {name} has no value; expected {name}=VALUE")
        if not equals or name not in known:
            raise ArgumentError(f"{kind} has no setting '{printable(word[:80])}'; expected some of {', '.join(known)}")
        try:
            settings[name] = known[name](value)
        except ValueError:
            raise ArgumentError(f"{kind}: {name} must be a number, got '{printable(value[:80])}'") from None
    if kind == "shapes":
        from m2l_runtime.masks.sources.shapes import Shapes

        return DrawnMasks(Shapes(**settings), count)
    try:
        source = _deform(settings) if kind == "deform" else _pca(settings, count)
    except ModuleNotFoundError as error:
        raise not_installed(error, kind) from error
    return DrawnMasks(source, count)


def _deform(settings: dict[str, Any]) -> MaskSource:
    from m2l_runtime.masks.sources.deform import DeformOptions, open_deformations

    masks = settings.pop("masks", None)
    if masks is None:
        raise ArgumentError("deform needs masks to deform: deform:COUNT,masks=FOLDER")
    return open_deformations(Path(masks), DeformOptions(**settings))


def _pca(settings: dict[str, Any], count: int) -> MaskSource:
    from m2l_runtime.masks.sources.pca import AlongComponent, RandomShapes, load

    model = settings.pop("model", None)
    if model is None:
        raise ArgumentError("pca needs a model of `m2l masks pca MASKS --model FILE`: pca:COUNT,model=FILE")
    if "component" not in settings:
        return RandomShapes(load(model), **settings)
    if "seed" in settings:
        raise ArgumentError("pca: nothing is drawn along a component, so leave out seed")
    return AlongComponent(load(model), steps=count, **settings)
