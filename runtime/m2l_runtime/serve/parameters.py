"""Read what a request asks for: seeds, samples, appearances, formats."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast, get_args

import msgspec

from m2l_runtime._utils.reading import content_errors
from m2l_runtime._utils.text import shown
from m2l_runtime.conditioning.conditions import AppearanceChoice
from m2l_runtime.conditioning.random import check_seed
from m2l_runtime.errors import ArgumentError
from m2l_runtime.output.encoding import Encoding
from m2l_runtime.output.formats import FORMATS, PlainImageFormat
from m2l_runtime.serve.model import DEFAULT_NAME

MAX_NAME_CHARS: Final = 255
MAX_APPEARANCE_CHARS: Final = 4096
MAX_SAMPLE: Final = 1_000_000
MAX_FIELDS: Final = 32
"""Fields of a query that are looked at."""

_MAX_DIGITS: Final = 20

IMAGE_FORMATS: Final = get_args(PlainImageFormat)
"""Formats of an answer that is a picture."""


@dataclass(frozen=True)
class SynthesizeQuery:
    """Hold what the address of ``POST /synthesize`` asks for.

    Example:
        >>> SynthesizeQuery.parse("seed=7&format=jpeg&quality=90").encoding
        Encoding(format='jpeg', quality=90, png_level=1)
    """

    seed: int = 0
    sample: int = 1
    name: str = DEFAULT_NAME
    appearance: AppearanceChoice | None = None
    encoding: Encoding = Encoding()  # noqa: RUF009 - it is frozen

    @classmethod
    def parse(cls, query: str) -> SynthesizeQuery:
        """Parse a query string.

        Raises:
            ArgumentError: a name that there is not, or that is there twice, or a value that is none.
            InputError: an appearance that there is not.
        """
        try:
            pairs = urllib.parse.parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError:
            raise ArgumentError(f"the query has more than {MAX_FIELDS} fields") from None
        values = _once(pairs)
        check_names(values, ("seed", "sample", "name", "appearance", "format", "quality"), "the query")
        return cls(
            seed=whole_number("seed", values.get("seed", 0)),
            sample=sample_number("sample", values.get("sample", 1)),
            name=mask_name(values.get("name", DEFAULT_NAME)),
            appearance=appearance_choice(values["appearance"]) if values.get("appearance") else None,
            encoding=encoding_of(values.get("format", "png"), values.get("quality")),
        )


def _once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise ArgumentError(f"{shown(name)} is in the query twice; give it once")
        values[name] = value
    return values


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse names that there are not, rather than ignore what they ask for.

    Raises:
        ArgumentError: one of `given` is not among `known`.
    """
    known = list(known)
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise ArgumentError(f"{where} has {shown(unknown)}; expected some of {', '.join(known)}")


def whole_number(name: str, value: Any) -> int:
    """Read a seed: a whole number, 0..2^64-1, or its decimal digits.

    Example:
        >>> whole_number("seed", "18446744073709551615")
        18446744073709551615

    Raises:
        ArgumentError: it is none, or out of range.
    """
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ArgumentError(f"{name} must be a whole number from 0 to 2^64-1, got {shown(value)}")
    check_seed(value)
    return value


def sample_number(name: str, value: Any) -> int:
    """Read the number of a sample, or how many there are to be: 1 or more.

    Raises:
        ArgumentError: it is none, or out of range.
    """
    number = whole_number(name, value)
    if not 1 <= number <= MAX_SAMPLE:
        raise ArgumentError(f"{name} must be between 1 and {MAX_SAMPLE:,}, got {shown(number)}")
    return number


def mask_name(value: Any) -> str:
    """Read the name of a mask, on which its images depend.

    Raises:
        ArgumentError: it is empty, too long, or not text.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARS:
        raise ArgumentError(f"the name of a mask is 1 to {MAX_NAME_CHARS} characters, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"the name of a mask is text, got {shown(value)}") from None
    return value


def appearance_choice(value: Any) -> AppearanceChoice:
    """Read what appearances are to be: ``lesion_L=35,ita=tan``, or numbers by name as JSON. Never a file.

    Example:
        >>> appearance_choice('{"lesion_L": 35}') == appearance_choice("lesion_L=35")
        True

    Raises:
        ArgumentError: it is neither.
        InputError: there is no such name, or a number is out of range.
    """
    if not isinstance(value, str):
        raise ArgumentError(f"an appearance is text, NAME=NUMBER,... or JSON, got {shown(value)}")
    if len(value) > MAX_APPEARANCE_CHARS:
        raise ArgumentError(f"an appearance has at most {MAX_APPEARANCE_CHARS:,} characters, got {len(value):,}")
    if not value.lstrip().startswith("{"):
        return AppearanceChoice.parse(value)
    with content_errors(
        lambda words: ArgumentError(
            f'an appearance in JSON is numbers by name, as {{"lesion_L": 35}}; this is not: {words}'
        )
    ):
        msgspec.json.decode(value.encode("utf-8", "replace"), type=dict[str, float])
    pairs = json.loads(value, object_pairs_hook=tuple)  # which keeps names that are there twice, to be refused
    return AppearanceChoice(tuple((name, float(number)) for name, number in pairs))


def encoding_of(name: str, quality: str | None) -> Encoding:
    """Read the format of an answer.

    Raises:
        ArgumentError: there is no such format, or a quality that has no effect or is out of range.
    """
    formats = {alias: one for one in IMAGE_FORMATS for alias in (one, *FORMATS[one].aliases)}
    if name not in formats:
        raise ArgumentError(f"format must be one of {', '.join(formats)}, got {shown(name)}")
    image_format = cast(PlainImageFormat, formats[name])
    if quality is None:
        return Encoding(image_format)
    if FORMATS[image_format].quality is None:
        raise ArgumentError(f"quality has no effect on {image_format}; leave it out")
    return Encoding(image_format, quality=whole_number("quality", quality))


def header_text(text: str) -> str:
    """Escape text for a header: anything but printable ASCII is percent-encoded as UTF-8, and so is ``%``.

    Example:
        >>> header_text("a b/ü")
        'a b/%C3%BC'
    """
    return urllib.parse.quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~", errors="replace")
