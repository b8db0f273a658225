"""Run `m2l triton`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import typer

from m2l_runtime.cli._options import echo_json, expand_options, option_field

if TYPE_CHECKING:
    from m2l_runtime.triton import TritonRepository

EXAMPLES: Final = """\b
Examples:
  m2l triton models/ --bundle my-bundle --name lesions
  tritonserver --model-repository models/"""
"""What the command's help ends with; `\\b` keeps the lines as they are."""


@dataclass(frozen=True, kw_only=True)
class TritonFlags:
    """Hold the options of a model repository."""

    PANEL: ClassVar = "Models"

    bundle: Path | None = option_field(None, "Bundle to write.", default="the model inside the package")
    name: str | None = option_field(
        None,
        "Name of the model that takes masks; those of single engines begin with it.",
        default="the bundle's, in letters, digits and _",
    )
    device: Literal["auto", "cpu", "gpu"] = option_field("auto", "Where onnxruntime runs in fp32: auto, cpu or gpu.")
    max_batch_size: int = option_field(16, "Largest number of masks in a call.")
    max_queue_delay_us: int = option_field(2000, "Microseconds that a request may wait for others to fill a batch.")
    max_queue_size: int = option_field(256, "Requests that may wait; further ones are refused at once.")
    instances: int = option_field(1, "Copies of each model, on each GPU or on the CPU.")
    threads: int | None = option_field(None, "CPU threads of each copy.", default="what the engine takes")
    backend: str = option_field("auto", "Engine of the model in Triton's Python backend.")
    overwrite: bool = option_field(False, "Replace a model repository that m2l wrote.")


@expand_options
def triton(
    repository: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    flags: TritonFlags,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a bundle as a model repository of Triton Inference Server.

    There is a model that takes masks, seeds and appearances, in Triton's Python backend, and one for each engine that
    Triton has and the bundle is made for. Nothing of Triton is needed to write them.
    """
    from m2l_runtime.triton import TritonOptions, write_model_repository

    options = TritonOptions(
        name=flags.name,
        device=flags.device,
        max_batch_size=flags.max_batch_size,
        max_queue_delay_us=flags.max_queue_delay_us,
        max_queue_size=flags.max_queue_size,
        instances=flags.instances,
        threads=flags.threads,
        backend=flags.backend,
    )
    made = write_model_repository(flags.bundle, repository, options, overwrite=flags.overwrite)
    if json:
        echo_json({"path": str(made.path), "models": made.models, "notes": made.notes})
    else:
        report_repository(made)


def report_repository(made: TritonRepository) -> None:
    """Print what a repository holds, and notes on what it does not."""
    from m2l_runtime._utils.text import command_word, print_stderr, printable

    for note in made.notes:
        print_stderr(f"note: {printable(note)}")
    for model in made.models:
        typer.echo(f"{model.name}: {model.backend}, {model.precision}")
    typer.echo(f"{printable(made.path)} is ready: tritonserver --model-repository {command_word(made.path)}")


if __name__ == "__main__":
    from m2l_runtime.cli.main import main

    main()
