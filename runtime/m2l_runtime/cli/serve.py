"""Run `m2l serve`.

A new option is one field of `AddressFlags` or `LimitFlags`, and its use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import typer

from m2l_runtime.cli._engine import EngineFlags
from m2l_runtime.cli._options import BundleArgument, expand_options, option_field

if TYPE_CHECKING:
    from m2l_runtime.serve.options import ServeOptions

EXAMPLES: Final = """\b
Examples:
  m2l serve
  m2l serve my-bundle --host 0.0.0.0 --allow-host lesions.example --token-file token.txt"""
"""What the command's help ends with."""

MAX_TOKEN_BYTES: Final = 4096
MIN_TOKEN_CHARS: Final = 16


@dataclass(frozen=True, kw_only=True)
class AddressFlags:
    """Hold the options of who may ask."""

    PANEL: ClassVar = "Who may ask"

    host: str = option_field("127.0.0.1", "Address to listen at; 0.0.0.0 is all of this machine.")
    port: int = option_field(8000, "Port to listen at; 0: any that is free.")
    token_file: Path | None = option_field(
        None, "File with a token that requests must show. Needed to listen at another address than this machine's own."
    )
    insecure: bool = option_field(False, "Listen at any address without a token.")
    allow_host: str | None = option_field(
        None,
        "Names of this machine that requests may use as Host, with commas between; * for any.",
        default="localhost, and the address listened at",
    )
    allow_origin: str | None = option_field(
        None, "Other sites whose pages may ask, with commas between: https://site.example.", default="none"
    )


@dataclass(frozen=True, kw_only=True)
class LimitFlags:
    """Hold the options of how much is taken."""

    PANEL: ClassVar = "Limits"

    model_name: str = option_field("m2l", "Name of the model in the inference protocol.")
    max_delay_ms: float = option_field(2.0, "Milliseconds that a mask waits for others to fill a batch.")
    max_queue: int | None = option_field(
        None,
        "Images that wait for the engine; more are refused with 503.",
        default="twice what the engine takes at once, at least 16",
    )
    max_requests: int | None = option_field(
        None,
        "Requests under way; more are refused with 503.",
        default="four times the images that the engine takes at once, at least 8",
    )
    max_images: int = option_field(16, "Images of one request.")
    max_body_mb: float = option_field(8.0, "Megabytes (2^20 bytes) of a request.")
    max_pixels: int = option_field(8_000_000, "Pixels of a mask picture.")
    max_connections: int = option_field(2000, "Open connections.")
    header_timeout: float = option_field(10.0, "Seconds for the headers of a request to arrive.")
    body_timeout: float = option_field(20.0, "Seconds for the body of a request to arrive.")
    keep_alive: float = option_field(30.0, "Seconds after which an idle connection is closed.")
    request_timeout: float = option_field(60.0, "Seconds that a request may wait for its images.")
    drain: float = option_field(30.0, "Seconds for requests under way to finish when the service is stopped.")


def register(app: typer.Typer) -> None:
    """Add `serve` to `app`."""
    from m2l_runtime.cli._options import RENAMED_OPTIONS, accept_old_options

    app.command(cls=accept_old_options(RENAMED_OPTIONS), epilog=EXAMPLES)(serve)


@expand_options
def serve(
    bundle: BundleArgument = None,
    *,
    address: AddressFlags,
    engine: EngineFlags,
    limits: LimitFlags,
) -> None:
    """Serve a bundle over HTTP: a page at /, pictures at /synthesize, and the Open Inference Protocol at /v2.

    It is reached from this machine alone unless --host says otherwise. SIGTERM and Ctrl-C finish what is under way and
    end with status 0; SIGHUP opens the bundle anew, if all of its files are whole. The log is JSON, a line for each
    request.

    Exit status: 0 stopped by a signal, 1 the bundle, the engine or the address cannot be used, 2 the command line was
    wrong.
    """
    from m2l_runtime._utils.text import print_stderr
    from m2l_runtime.serve import serve as run

    options = _options(address, limits)

    run(
        lambda: engine.open(bundle),
        options,
        host=address.host,
        port=address.port,
        is_insecure=address.insecure,
        on_ready=lambda url: print_stderr(f"serving at {url} until Ctrl-C"),
    )


def _options(address: AddressFlags, limits: LimitFlags) -> ServeOptions:
    """Make options of the library."""
    from m2l_runtime.serve import ServeOptions
    from m2l_runtime.serve.options import LOOPBACK_HOSTS

    return ServeOptions(
        model_name=limits.model_name,
        max_delay_ms=limits.max_delay_ms,
        max_queue=limits.max_queue,
        max_requests=limits.max_requests,
        max_images=limits.max_images,
        max_body_bytes=round(limits.max_body_mb * (1 << 20)),
        max_pixels=limits.max_pixels,
        max_connections=limits.max_connections,
        header_timeout_s=limits.header_timeout,
        body_timeout_s=limits.body_timeout,
        keep_alive_s=limits.keep_alive,
        request_timeout_s=limits.request_timeout,
        drain_s=limits.drain,
        allowed_hosts=(*LOOPBACK_HOSTS, *_words("--allow-host", address.allow_host)),
        allowed_origins=_words("--allow-origin", address.allow_origin),
        token=None if address.token_file is None else read_token(address.token_file),
    )


def _words(option: str, text: str | None) -> tuple[str, ...]:
    words = () if text is None else tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise typer.BadParameter(f"{option} is names with commas between, got {text!r:.60}")
    return words


def read_token(path: Path) -> str:
    """Read the token that requests must show: the first line of a file.

    Raises:
        InputError: it cannot be read, or holds no token.
    """
    from m2l_runtime._utils.reading import read_input, reader_errors
    from m2l_runtime._utils.text import printable
    from m2l_runtime.errors import InputError

    with reader_errors(InputError, path, "holds no token in ASCII"):
        lines = read_input(path, MAX_TOKEN_BYTES).decode("ascii").split("\n")
    token = lines[0].strip()
    if len(token) < MIN_TOKEN_CHARS:
        raise InputError(
            f"{printable(path)}: the token, its first line, has {len(token)} characters; at least {MIN_TOKEN_CHARS} "
            "are needed: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


if __name__ == "__main__":
    from m2l_runtime.cli.main import main

    main()
