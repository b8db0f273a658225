"""Arguments are checked by their annotations: every kind of annotation, and what the messages say."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pytest

from m2l_runtime._utils.arguments import Renamed, check_types
from m2l_runtime.errors import ArgumentTypeError


class Named(Protocol):
    """Have a name."""

    @property
    def name(self) -> str: ...


class WithName:
    name = "a"


@check_types()
@dataclass(frozen=True)
class Options:
    size: int = 1
    names: tuple[str, ...] = ()

    of = Renamed("from_size")

    @classmethod
    def from_size(cls, size: int) -> Options:
        return cls(size)


@check_types(renamed={"old": "whole"})
def take(
    whole: int = 0,
    *,
    number: float = 0.0,
    switch: bool = False,
    text: str = "",
    path: str | os.PathLike[str] | None = None,
    word: Literal["a", "b"] = "a",
    pair: tuple[int, int] = (1, 2),
    names: Sequence[str] = (),
    table: Mapping[str, int] | None = None,
    call: Callable[[], None] | None = None,
    array: npt.NDArray[Any] | None = None,
    named: Named | None = None,
    options: Options | None = None,
    limited: Annotated[int, "above 0"] = 1,
    anything: Any = None,
    **fields: int,
) -> int:
    return whole


@pytest.mark.parametrize(
    "arguments",
    [
        {"whole": np.int64(3), "number": 3, "switch": np.bool_(True), "path": Path("a")},
        {"number": np.float32(1), "pair": [1, 2], "names": ["a"], "table": {"a": 1}, "call": print},
        {"pair": np.array([1, 2]), "array": np.zeros(2), "named": WithName(), "named_too": "goes into fields"},
        {"path": None, "options": Options(), "limited": 3, "anything": object(), "word": "of the right type"},
    ],
)
def test_check_types__right_types_pass(arguments: dict[str, Any]) -> None:
    assert take(**arguments) == arguments.get("whole", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"whole": "3"}, r"take: whole must be a whole number, got '3' \(str\)"),
        ({"whole": 3.0}, r"whole must be a whole number, got 3.0 \(float\)"),
        ({"whole": True}, "whole must be a whole number, got True"),
        ({"whole": None}, "whole must be a whole number, got None$"),
        ({"number": "1"}, "number must be a number"),
        ({"switch": "yes"}, "switch must be True or False, got 'yes'"),
        ({"switch": 1}, "switch must be True or False, got 1"),
        ({"text": b"a"}, "text must be a text"),
        ({"path": 5}, "path must be a text, a path or None, got 5"),
        ({"word": 1}, "word must be one of a, b, got 1"),
        ({"pair": 256}, r"pair must be a tuple \(a whole number, a whole number\), got 256"),
        ({"pair": (1, 2, 3)}, "pair must be a tuple"),
        ({"pair": (1, "2")}, "pair must be a tuple"),
        ({"names": "star"}, "names must be a list, each item a text, got 'star'"),
        ({"table": [1]}, "table must be a mapping or None"),
        ({"call": 1}, "call must be something to call or None"),
        ({"array": [1]}, "array must be an array or None"),
        ({"named": 5}, "named must be a Named or None, got 5"),
        ({"limited": "1"}, "limited must be a whole number"),
        ({"options": 3}, r"options must be an Options or None, got 3 \(int\)$"),
        ({"options": {"size": 3}}, r"got \{'size': 3\} \(dict\); write Options\(size=3\)"),
        ({"old": 3}, "take: old is called whole"),
        ({"text": "a", "whole": "\x1b[31m" * 40}, r"got '\\x1b\[31m[^\x1b]{0,60}\.\.\. \(str\)"),
    ],
)
def test_check_types__a_wrong_type_is_told_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentTypeError, match=message):
        take(**arguments)


def test_check_types__names_that_there_are_not_are_told_where_they_belong() -> None:
    @check_types()
    def run(count: int, options: Options | None = None) -> None: ...

    with pytest.raises(ArgumentTypeError, match=r"size is a field of Options; write options=Options\(size=\.\.\.\)"):
        run(1, size=3)  # type: ignore[call-arg]
    with pytest.raises(ArgumentTypeError, match="there is no argument side; it takes count, options"):
        run(1, side=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'count'"):
        run()  # type: ignore[call-arg]
    with pytest.raises(ArgumentTypeError, match="Options: there is no argument sizes; it takes size, names"):
        Options(sizes=3)  # type: ignore[call-arg]
    with pytest.raises(ArgumentTypeError, match="Options: names must be a tuple, each item a text, got 'ab'"):
        Options(names="ab")  # type: ignore[arg-type]


def test_renamed__says_the_new_name_and_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match=r"Options\.of is now Options\.from_size"):
        _ = Options.of
    assert not hasattr(Options(), "of")
    assert Options(2) == Options.from_size(2)
