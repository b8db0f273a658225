"""Share options among commands, and accept options by names that they had before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from m2l_runtime._utils.text import print_stderr

BundleArgument = Annotated[
    Path | None,
    typer.Argument(help="Folder of a bundle; left out: the model inside the package.", show_default=False),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def echo_json(value: Any) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


@dataclass(frozen=True)
class OldOption:
    """An option that was renamed, with its renamed values."""

    name: str
    """The new name, with its dashes."""
    values: Mapping[str, str] = field(default_factory=dict)
    """New value by former value; others stay."""


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

    class Command(TyperCommand):
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
