"""Run `m2l web`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2l_runtime.cli._options import Json, echo_json


def web(
    bundle: Annotated[
        Path,
        typer.Argument(help="Folder of a bundle, or 'embedded' for the model inside the package.", show_default=False),
    ],
    out: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            "--onnxruntime-web",
            help="Folder of the unpacked npm package onnxruntime-web.  [default: a pinned version, from the npm "
            "registry, whose hash is checked]",
            show_default=False,
        ),
    ] = None,
    no_webgpu: Annotated[
        bool, typer.Option("--no-webgpu", help="Leave out what runs the model on WebGPU, 27 MB.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a page that is there already.")] = False,
    json: Json = False,
) -> None:
    """Write a page in which a mask is drawn and its lesion appears, for any static host.

    The model runs in the browser; what is drawn there never leaves the machine.
    """
    from m2l_runtime.bundle import embedded
    from m2l_runtime.page import SiteOptions, write_site

    source = embedded.BUNDLE if str(bundle) == "embedded" else bundle
    report = write_site(source, out, SiteOptions(onnxruntime_web, not no_webgpu, overwrite))
    if json:
        import dataclasses

        echo_json({**dataclasses.asdict(report), "path": str(report.path)})
        return
    from m2l_runtime._utils.text import print_stderr, printable

    for note in report.notes:
        print_stderr(f"note: {note}")
    typer.echo(
        f"{report.file_count} files in {printable(report.path)}: page and model {report.page_bytes / 1e6:.1f} MB, "
        f"onnxruntime-web {report.engine_version} {report.engine_bytes / 1e6:.1f} MB\n"
        f"to look at it here: python -m http.server --bind 127.0.0.1 --directory {printable(report.path)} 8000"
    )
