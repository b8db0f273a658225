"""Check the arguments of public functions and options by their annotations, and name the new place of those that moved.

A wrong type is then told where it is given, by the argument's name, rather than deep inside or not at all.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, NoReturn, TypeVar, Union

from m2l_runtime._utils import text
from m2l_runtime._utils.text import printable
from m2l_runtime.errors import ArgumentError, ArgumentTypeError, InputError, kind_named

_T = TypeVar("_T", bound=Callable[..., Any])

_MAX_DIGITS: Final = 60
"""Digits of whole numbers; those of seeds have 20."""

_MAX_INT: Final = 10**_MAX_DIGITS
_MAX_SHOWN: Final = 60
"""Characters of a value that a message shows."""


def _is_bool(value: Any) -> bool:
    """Tell whether it is a bool, of Python or of NumPy (which need not be loaded for that)."""
    return isinstance(value, bool) or (type(value).__module__ == "numpy" and type(value).__name__.startswith("bool"))


_PLAIN: Final[Mapping[Any, tuple[str, Callable[[Any], bool]]]] = {
    bool: ("True or False", lambda v: _is_bool(v)),
    int: ("a whole number", lambda v: isinstance(v, numbers.Integral) and not _is_bool(v) and abs(int(v)) < _MAX_INT),
    float: ("a number", lambda v: isinstance(v, numbers.Real) and not _is_bool(v)),
    bytes: ("bytes", lambda v: isinstance(v, bytes)),
    str: ("a text", lambda v: isinstance(v, str)),
    os.PathLike: ("a path", lambda v: isinstance(v, os.PathLike)),
    type(None): ("None", lambda v: v is None),
}
"""What each plain type is called, and what counts as it: numbers of NumPy are numbers, bools are none."""


def check_types(*, renamed: Mapping[str, str] | None = None) -> Callable[[_T], _T]:
    """Decorate a function or a dataclass: its arguments are checked by their annotations before anything else.

    Types alone are looked at; what a value may be is for the function to say. An `InputError` of a dataclass's own
    checks becomes an `ArgumentError`, for they have looked at nothing else. The annotations are read at the first call,
    so that the decoration costs no import.

    Example:
        >>> @check_types(renamed={"number": "count"})
        ... def repeat(text: str, count: int = 2) -> str:
        ...     return text * count
        >>> repeat("ab")
        'abab'
        >>> repeat("ab", "3")
        Traceback (most recent call last):
        m2l_runtime.errors.ArgumentTypeError: repeat: count must be a whole number, got '3' (str)
        >>> repeat("ab", number=3)
        Traceback (most recent call last):
        m2l_runtime.errors.ArgumentTypeError: repeat: number is called count

    Args:
        renamed: new name of an argument by its former one.

    Raises:
        ArgumentTypeError: an argument is of another type, or there is none of that name. If it is a field of the
            options that the function takes, the message says so.
    """

    def decorate(target: Any) -> Any:
        if not isinstance(target, type):
            return _checked(target, target.__qualname__, target, renamed or {})
        init = vars(target)["__init__"]
        annotated = target if dataclasses.is_dataclass(target) else init
        setattr(target, "__init__", _checked(init, target.__name__, annotated, renamed or {}))  # noqa: B010 - of a class
        return target

    return decorate


class Renamed:
    """Stand in a class for an attribute that has another name now, and say so.

    Example:
        >>> class Choice:
        ...     of = Renamed("from_values")
        >>> Choice.of
        Traceback (most recent call last):
        AttributeError: Choice.of is now Choice.from_values
    """

    def __init__(self, new: str) -> None:
        self._new, self._old = new, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._old = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__}.{self._old} is now {owner.__name__}.{self._new}")


def _checked(function: Any, name: str, annotated: Any, renamed: Mapping[str, str]) -> Any:
    """Wrap `function` so that its arguments are checked by the annotations of `annotated`, itself or its class."""
    signature = inspect.signature(function)
    is_constructor = function.__name__ == "__init__"
    takes_any = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
    annotations = {
        one.name
        for one in signature.parameters.values()
        if one.annotation is not one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    }

    @functools.cache
    def hints() -> dict[str, Any]:
        return typing.get_type_hints(annotated)

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for given in kwargs:
            if given in renamed or not (takes_any or given in signature.parameters):
                raise ArgumentTypeError(f"{name}: {_unknown(given, signature, hints(), renamed)}")
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # one is missing or too many: Python's own words
        for argument in filter(annotations.__contains__, bound.arguments):
            value, hint = bound.arguments[argument], hints().get(argument, Any)
            if not _fits(value, hint):
                raise ArgumentTypeError(f"{name}: {_mismatch(argument, value, hint, annotated)}")
        try:
            return function(*args, **kwargs)
        except InputError as error:
            if is_constructor and type(error) is InputError:
                raise ArgumentError(*error.args) from None
            raise

    checked.checks_types = hints  # type: ignore[attr-defined]
    return checked


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of the type that an annotation says; of annotations not known here, True."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN or origin in _PLAIN:
        return _PLAIN[hint if hint in _PLAIN else origin][1](value)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in args)
    if origin is typing.Annotated:
        return _fits(value, args[0])
    if origin is Literal:
        return any(_fits(value, type(one)) for one in args)
    if origin is Callable:
        return callable(value)
    if origin is tuple or origin is Sequence:
        return _is_sequence(value) and _items_fit(value, origin, args)
    if isinstance(origin, type):
        return isinstance(value, origin)
    if hint is Any or not isinstance(hint, type):
        return True
    if getattr(hint, "_is_protocol", False):
        return all(hasattr(type(value), name) or hasattr(value, name) for name in _members(hint))
    return isinstance(value, hint)


def _is_sequence(value: Any) -> bool:
    return (isinstance(value, Sequence) or hasattr(value, "__array__")) and not isinstance(value, str | bytes)


def _items_fit(value: Any, origin: Any, args: tuple[Any, ...]) -> bool:
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return len(value) == len(args) and all(map(_fits, value, args))
    return all(_fits(item, args[0]) for item in value)


def _members(protocol: type) -> set[str]:
    """Return the public members that a protocol asks for."""
    bases = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False)]
    return {
        name for base in bases for name in (*vars(base), *inspect.get_annotations(base)) if not name.startswith("_")
    }


def _mismatch(argument: str, value: Any, hint: Any, annotated: Any) -> str:
    """Say what was expected and got, and how to write what was probably meant."""
    if isinstance(value, numbers.Integral) and abs(int(value)) >= _MAX_INT:
        return f"{argument} must be {_describe(hint)} of less than {_MAX_DIGITS} digits, got {text.shown(int(value))}"
    shown = repr(value)
    shown = printable(shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}...")
    got = shown if value is None else f"{shown} ({type(value).__name__})"
    advice = ""
    for kind in _options(hint) or _options(annotated) if isinstance(value, Mapping) else ():
        if hasattr(kind, "from_values"):
            advice = f"; write {kind.__name__}.from_values({shown})"
        elif value and value.keys() <= {field.name for field in dataclasses.fields(kind)}:
            words = ", ".join(f"{name}={one!r}" for name, one in value.items())
            advice = f"; write {kind.__name__}({printable(words[:_MAX_SHOWN])})"
    return f"{argument} must be {_describe(hint)}, got {got}{advice}"


def _unknown(given: str, signature: inspect.Signature, hints: Mapping[str, Any], renamed: Mapping[str, str]) -> str:
    """Say where an argument of a name that there is not belongs."""
    if given in renamed:
        return f"{given} is called {renamed[given]}"
    for argument, hint in hints.items():
        for kind in _options(hint):
            if argument in signature.parameters and given in {field.name for field in dataclasses.fields(kind)}:
                return f"{given} is a field of {kind.__name__}; write {argument}={kind.__name__}({given}=...)"
    names = ", ".join(name for name in signature.parameters if name not in ("self", "cls"))
    return f"there is no argument {printable(given[:_MAX_SHOWN])}; it takes {names}"


def _options(hint: Any) -> list[Any]:
    """Return the dataclasses among the types of an annotation."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)]


def _describe(hint: Any) -> str:
    """Describe an annotation in words: 'a whole number or None'."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN or origin in _PLAIN:
        return _PLAIN[hint if hint in _PLAIN else origin][0]
    if origin in (Union, types.UnionType):
        *most, last = dict.fromkeys(map(_describe, args))
        return f"{', '.join(most)} or {last}" if most else last
    if origin is typing.Annotated:
        return _describe(args[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is Callable:
        return "something to call"
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return f"a tuple ({', '.join(map(_describe, args))})"
    if origin is tuple or origin is Sequence:
        return f"a {'tuple' if origin is tuple else 'list'}, each item {_describe(args[0])}"
    if origin is not None and isinstance(origin, type):
        return "a mapping" if origin is Mapping else kind_named(origin.__name__)
    return kind_named(getattr(hint, "__name__", str(hint)))
