"""Derive options of commands from dataclasses, share options, and accept options by former names.

An option is one field of a dataclass:

    @dataclass(frozen=True)
    class OutputFlags:
        quality: int | None = option_field(None, "JPEG and WebP quality, 1 to 100.", default="95")

and a command takes the record: ``@expand_options`` replaces a parameter annotated with a dataclass by its fields. Where
the record has a ``PANEL``, the command's help lists its options under that heading.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from m2l_runtime._utils.text import ascii_json, print_stderr
from m2l_runtime.backends.engines import BACKENDS, is_fake

BundleArgument = Annotated[
    Path | None,
    typer.Argument(help="Folder of a bundle.  [default: the model inside the package]", show_default=False),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_FAKES = " or ".join(filter(is_fake, BACKENDS))
BACKEND_HELP = f"{', '.join(['auto', *(name for name in BACKENDS if not is_fake(name))])}, or {_FAKES} (runs no model)."
"""Help of an option that names a backend."""

ALL_CPUS = "the CPUs this process may use"
"""Default that is shown where a number of threads is left out."""


def echo_json(value: Any) -> None:
    """Print a value as indented JSON. What could control a terminal is escaped; names keep bytes that are not UTF-8."""
    import json

    import msgspec

    text = json.dumps(_finite(msgspec.to_builtins(value)), indent=2, ensure_ascii=False)
    typer.echo(ascii_json(text))


def _finite(value: Any) -> Any:
    """Replace numbers that JSON has no word for by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def parse_shard(text: str) -> tuple[int, int]:
    """Read the value of --shard, I/N.

    Example:
        >>> parse_shard("2/3")
        (2, 3)
    """
    number, slash, count = text.partition("/")
    is_plain = slash and all(n.isascii() and n.isdecimal() and len(n) <= 9 for n in (number, count))
    if not (is_plain and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(f"--shard is I/N with I from 1 to N, got {text[:40]!r}")
    return int(number), int(count)


def option_field(
    value: Any,
    help: str,  # noqa: A002 - as typer names it
    *,
    default: str | None = None,
    name: str | None = None,
) -> Any:
    """Declare a field of a dataclass that is an option of a command line.

    Args:
        value: what the field is where the option is not given.
        help: what the command's help says of it.
        default: text shown as the default; None: the value itself, and nothing for None and for switches.
        name: the option, with its dashes, where it is not the field's name.
    """
    return field(default=value, metadata={"doc": help, "default": default, "option": name})


@dataclass(frozen=True)
class GivenOptions:
    """Mark a parameter that receives a mapping of the options that were given, by the names of a dataclass's fields.

    For records whose defaults come from elsewhere, such as a preset: ``Annotated[Mapping[str, Any],
    GivenOptions(TrainConfig)]``. Switches become pairs (``--flip/--no-flip``).
    """

    record: type


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace parameters that are annotated with a dataclass by an option for each of its fields.

    Fields are declared with `option_field`. ``bool`` becomes a switch, a ``Literal`` of words a choice.
    The command is called with the records; its other parameters are left as they are.

    Example:
        >>> @dataclass(frozen=True)
        ... class Flags:
        ...     quality: int = option_field(95, "Quality, 1 to 100.")
        >>> @expand_options
        ... def save(flags: Flags) -> None:
        ...     print(flags)
        >>> save(quality=80)
        Flags(quality=80)
        >>> list(inspect.signature(save).parameters)
        ['quality']
    """
    parameters: list[inspect.Parameter] = []
    records: dict[str, type | GivenOptions] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        record = _record_of(parameter.annotation)
        if record is None:
            parameters.append(parameter)
            continue
        records[parameter.name] = record
        is_partial = isinstance(record, GivenOptions)
        parameters += _options_of(record.record if isinstance(record, GivenOptions) else record, is_partial)

    @functools.wraps(command)
    def run(*arguments: Any, **values: Any) -> None:
        for name, record in records.items():
            values[name] = _take(record, values)
        command(*arguments, **values)

    parameters.sort(key=lambda parameter: parameter.kind)  # those of records are by keyword alone
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    del run.__wrapped__  # or the signature of what it wraps would be looked at
    return run


def _record_of(annotation: Any) -> type | GivenOptions | None:
    """Return what a parameter's annotation asks options for, if anything."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return annotation
    marks = getattr(annotation, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, GivenOptions)), None)


def _options_of(record: type, is_partial: bool) -> list[inspect.Parameter]:
    """Make a parameter of each field of a dataclass, as typer reads them."""
    kinds = typing.get_type_hints(record)
    found = []
    for one in dataclasses.fields(record):
        kind = kinds[one.name]
        name: str = one.metadata.get("option") or f"--{one.name.replace('_', '-')}"
        if kind is bool and is_partial:
            name = f"{name}/--no-{name.removeprefix('--')}"
        panel = getattr(record, "PANEL", None)
        option = typer.Option(name, help=_help(one, is_partial), show_default=False, rich_help_panel=panel)
        annotation: Any = Annotated[_plain(one.name, kind, is_partial), option]
        default = None if is_partial else one.default
        found.append(
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return found


def _plain(name: str, kind: Any, is_partial: bool) -> Any:
    """Return the type that typer reads an option as: an enumeration for a Literal, so that others are refused.

    Where options are partial the record itself refuses others, with the message of its own. What may be of several
    types is words, which the record reads.
    """
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    plain = []
    for one in typing.get_args(kind) if is_union else (kind,):
        choices = typing.get_args(one) if typing.get_origin(one) is typing.Literal else ()
        if not choices:
            plain.append(one)
        elif is_partial:
            plain.append(type(choices[0]))
        else:
            plain.append(enum.StrEnum(name, {choice: choice for choice in choices}))
    if len([one for one in plain if one is not type(None)]) > 1:
        plain = [str, *(one for one in plain if one is type(None))]
    if is_partial and type(None) not in plain:
        plain.append(type(None))
    return functools.reduce(lambda one, other: one | other, plain)


def _help(one: dataclasses.Field[Any], is_partial: bool) -> str:
    """Return a field's help with its default, as typer shows defaults."""
    text = one.metadata.get("default")
    if text is None and one.default is not None:
        if isinstance(one.default, bool):
            text = ("yes" if one.default else "no") if is_partial else None
        else:
            text = str(one.default)
    doc: str = one.metadata["doc"]
    return doc if text is None else f"{doc}  [default: {text}]"


def _take(record: type | GivenOptions, values: dict[str, Any]) -> Any:
    """Move the fields of a record out of all values, into the record."""
    if isinstance(record, GivenOptions):
        given = {one.name: values.pop(one.name, None) for one in dataclasses.fields(record.record)}
        return {name: value for name, value in given.items() if value is not None}
    given = {one.name: values.pop(one.name) for one in dataclasses.fields(record) if one.name in values}
    return record(**{name: value.value if isinstance(value, enum.Enum) else value for name, value in given.items()})


@dataclass(frozen=True)
class OldOption:
    """Describe an option that was renamed, with its renamed values."""

    name: str
    """The new name, with its dashes."""
    values: Mapping[str, str] = field(default_factory=dict)
    """New value by former value; others stay."""


RENAMED_OPTIONS: Mapping[str, str | OldOption] = {"--trust-engines": "--trust-plans"}
"""Options of the runtime's commands that were renamed."""


_TYPE_WORDS = {"int": "N", "float": "NUMBER", "str": "TEXT", "path": "PATH"}


def say_types_in_words(command: Any) -> None:
    """Have a command and those below it say `N` or `PATH` in their help, where Typer names types of Python.

    Args:
        command: what ``typer.main.get_command`` returns.
    """
    for parameter in getattr(command, "params", ()):
        shown = getattr(parameter, "display_type", None)
        if shown is not None:  # before Typer 0.28 they are words
            parameter.display_type = functools.partial(_type_in_words, shown)
    for below in getattr(command, "commands", {}).values():
        say_types_in_words(below)


def _type_in_words(shown: Callable[..., str | None], *arguments: Any, **options: Any) -> str | None:
    text = shown(*arguments, **options)
    if text is None:
        return None
    bare = text.strip("<>")
    one = bare.removeprefix("list[").removesuffix("]")
    return _TYPE_WORDS.get(one.lower(), f"<{one}>" if text.startswith("<") else one)


class _GroupedCommand(TyperCommand):
    """List options in help by their panels, in the order in which these come; without a panel they come first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and options, as click's own method does for all of them at once."""
        rows: dict[str, list[tuple[str, str]]] = {_ARGUMENTS: [], _OPTIONS: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = _ARGUMENTS if parameter.param_type_name == "argument" else _OPTIONS
                rows.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


_ARGUMENTS, _OPTIONS = "Arguments", "Options"


def accept_old_options(old: Mapping[str, str | OldOption]) -> type[TyperCommand]:
    """Make a class of commands that accept options by former names, with a note that gives the new name.

    Former names are not listed in the command's help.

    Example:
        >>> command = accept_old_options({"--trust-engines": "--trust-plans"})
        >>> app = typer.Typer()
        >>> @app.command(cls=command)
        ... def synth(trust_plans: bool = False) -> None: ...

    Args:
        old: by former name, with its dashes: the new name, or an `OldOption` where values were renamed, too.
    """
    options = {name: new if isinstance(new, OldOption) else OldOption(new) for name, new in old.items()}

    class Command(_GroupedCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, _with_new_names(args, options))

    return Command


def _with_new_names(args: Sequence[str], options: Mapping[str, OldOption]) -> list[str]:
    renamed: list[str] = []
    position = 0
    while position < len(args):
        argument = args[position]
        position += 1
        if argument == "--":
            return [*renamed, argument, *args[position:]]
        name, equals, value = argument.partition("=")
        option = options.get(name)
        if option is None:
            renamed.append(argument)
            continue
        print_stderr(f"m2l: note: {name} is now {option.name}")
        if equals:
            renamed.append(f"{option.name}={option.values.get(value, value)}")
        else:
            renamed.append(option.name)
            if option.values and position < len(args):
                renamed.append(option.values.get(args[position], args[position]))
                position += 1
    return renamed
