"""Run m2l from the command line: one module for each group of commands.

`main` builds the application from the entry-point group ``m2l.commands``; `register` adds the runtime's own commands.
Modules here import nothing heavy: engines load when a command runs.
"""

from __future__ import annotations

import typer

from m2l_runtime.cli import serve
from m2l_runtime.cli._options import RENAMED_OPTIONS, accept_old_options
from m2l_runtime.cli.inspect import doctor, inspect, verify
from m2l_runtime.cli.synth import EXAMPLES, synth
from m2l_runtime.cli.triton import EXAMPLES as TRITON_EXAMPLES
from m2l_runtime.cli.triton import triton
from m2l_runtime.cli.web import web

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add synth, inspect, verify, doctor, web, serve and triton to `app`."""
    accepts_old = accept_old_options(RENAMED_OPTIONS)
    app.command(cls=accepts_old, epilog=EXAMPLES)(synth)
    app.command()(inspect)
    app.command(cls=accepts_old)(verify)
    app.command()(doctor)
    app.command()(web)
    serve.register(app)
    app.command(epilog=TRITON_EXAMPLES)(triton)
