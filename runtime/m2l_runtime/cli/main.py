"""Run `m2l`: every verb that is installed, and errors as one line instead of a traceback.

Verbs come from the entry-point group `m2l.commands`: each entry is a function that is given the application
and adds its commands to it. Those modules are light; engines load when a command runs.
"""

from __future__ import annotations

import errno
import sys
import warnings
from importlib.metadata import entry_points
from typing import Annotated, Any, Final, NoReturn

import typer

from m2l_runtime._utils.memory import is_memory_short, is_out_of_memory
from m2l_runtime._utils.signals import second_signal_ends
from m2l_runtime._utils.temporary import ADVICE, is_no_temporary_folder
from m2l_runtime._utils.text import print_stderr, printable
from m2l_runtime._version import __version__
from m2l_runtime.cli._options import say_types_in_words
from m2l_runtime.errors import ArgumentError, M2LError

GROUP: Final = "m2l.commands"
DEBUG: Final = "--debug"
INTERRUPTED: Final = 130  # 128 plus SIGINT, as a shell would say it
USAGE_ERROR: Final = 2  # as Typer says of an option that there is not
OUT_OF_MEMORY: Final = (
    "error: there is too little memory for this, or too few threads; free some, or give fewer --workers or smaller "
    "pictures"
)
_STREAM_ERRORS: Final = (errno.ENOSPC, errno.EIO)


def build_app() -> typer.Typer:
    """Build the application with the verbs of every installed package."""
    app = typer.Typer(
        name="m2l",
        help="Synthesize dermoscopic images from masks of skin lesions. Images are synthetic: never for diagnosis.",
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
        ] = False,
        debug: Annotated[bool, typer.Option(DEBUG, help="Show tracebacks. May stand anywhere on the line.")] = False,
    ) -> None:
        del version, debug

    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name != "runtime", e.name)):
        try:
            entry.load()(app)
        except Exception as error:  # noqa: BLE001 - one broken plug-in must not take the other verbs away
            print_stderr(f"m2l: the commands of '{entry.name}' do not load: {error}")
    return app


def build_command() -> Any:
    """Build the command line of the application, whose help names types in words."""
    command = typer.main.get_command(build_app())
    say_types_in_words(command)
    return command


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"m2l {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors that m2l knows become one line.

    Exit status: 2 if the line itself is wrong, whatever the files and the machine; 1 if the work cannot be done.
    """
    debug = _pop_debug_flag(sys.argv)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of pictures, which masks.image_file judges itself
    try:
        with second_signal_ends():
            build_command()()
    except M2LError as error:
        if debug:
            raise
        _fail(f"error: {error}", USAGE_ERROR if isinstance(error, ArgumentError) else 1)
    except KeyboardInterrupt:  # Python also raises it where it has no memory for a thread to wait with
        if is_memory_short():
            _fail(OUT_OF_MEMORY)
        _interrupted()
    except SystemExit as stop:  # what Typer makes of an interrupt that a command does not handle itself, without a word
        cause = stop.__cause__ or stop.__context__
        if stop.code == INTERRUPTED and cause is not None and isinstance(cause.__context__, KeyboardInterrupt):
            if is_memory_short():
                _fail(OUT_OF_MEMORY)
            _interrupted()
        raise
    except Exception as error:
        if debug:
            raise
        if is_out_of_memory(error):
            _fail(OUT_OF_MEMORY)
        if is_no_temporary_folder(error):
            _fail(f"error: {ADVICE}")
        if isinstance(error, OSError) and error.filename is None and error.errno in _STREAM_ERRORS:
            _fail(f"error: cannot write to standard output: {error.strerror}")
        if isinstance(error, OSError) and isinstance(error.filename, str):
            _fail(f"error: cannot use {error.filename}: {error.strerror or error}")
        _fail(
            f"unexpected {type(error).__name__}: {error}\n"
            f"Please report this with the output of the same command and {DEBUG}."
        )


def _interrupted() -> NoReturn:
    print_stderr("m2l: interrupted")
    sys.exit(INTERRUPTED)


def _pop_debug_flag(arguments: list[str]) -> bool:
    """Take --debug out, as commands do not know it, and return whether it stood anywhere ahead of a `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    is_debug = DEBUG in arguments[1:end]
    arguments[1:end] = [argument for argument in arguments[1:end] if argument != DEBUG]
    return is_debug


def _fail(message: str, status: int = 1) -> None:
    text = "\n".join(printable(line) for line in message.split("\n"))
    print_stderr(f"m2l: {text}")
    sys.exit(status)


if __name__ == "__main__":
    main()
