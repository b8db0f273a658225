"""Share options among commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    pass

BundleArgument = Annotated[
    Path | None,
    typer.Argument(help="Folder of a bundle; left out: the model inside the package.", show_default=False),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _echo_json(value: Any) -> None:
    import msgspec

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
