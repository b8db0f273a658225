"""Options of commands: derived from dataclasses, and by former names."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import pytest
import typer
from command_line import CommandLine
from support import TINY_BUNDLE, disc, save
from typer.testing import CliRunner

from m2l_runtime.cli._options import GivenOptions, OldOption, accept_old_options, expand_options, option_field
from m2l_runtime.cli.synth import OutputFlags
from m2l_runtime.output.formats import FORMATS

RUNNER = CliRunner()


@dataclass(frozen=True)
class Flags:
    image_format: Literal["png", "jpeg"] | None = option_field(None, "Which format.", default="png")
    quality: int = option_field(95, "Which quality.")
    pairs: bool = option_field(False, "Masks too.", name="--with-masks")


@dataclass(frozen=True)
class Config:
    flip: bool = option_field(True, "Flip.")
    rate: float | None = option_field(None, "Rate.", default="of the size")
    norm: Literal["instance", "batch"] = option_field("instance", "Norm.")


def run(command: Any, *arguments: str, cls: type[Any] | None = None) -> Any:
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(cls=cls)(command)
    return RUNNER.invoke(app, arguments, env={"COLUMNS": "200"})


def test_expand_options__fields_reach_the_command_as_a_record() -> None:
    received: list[Any] = []

    @expand_options
    def command(path: Path, flags: Flags, count: int = 1) -> None:
        received.extend((path, flags, count))

    outcome = run(command, "x", "--image-format", "jpeg", "--with-masks", "--count", "3")
    assert outcome.exit_code == 0, outcome.output
    assert received == [Path("x"), Flags("jpeg", 95, True), 3]
    assert type(received[1].image_format) is str
    received.clear()
    run(command, "x")
    assert received == [Path("x"), Flags(), 1]


def test_expand_options__words_that_are_no_choice_are_refused() -> None:
    @expand_options
    def command(flags: Flags) -> None: ...

    outcome = run(command, "--image-format", "gif")
    assert outcome.exit_code == 2
    assert "'png', 'jpeg'" in outcome.output
    assert run(command, "--no-with-masks").exit_code == 2


def test_expand_options__help_shows_each_field_with_its_default() -> None:
    @expand_options
    def command(flags: Flags) -> None: ...

    words = " ".join(run(command, "--help").output.split())
    assert "Which format. [default: png]" in words
    assert "Which quality. [default: 95]" in words
    assert "Masks too. --help" in words
    assert "--no-" not in words


def test_given_options__only_what_was_given_is_in_the_mapping() -> None:
    received: list[Any] = []

    @expand_options
    def command(settings: Annotated[dict[str, Any], GivenOptions(Config)]) -> None:
        received.append(settings)

    assert run(command, "--no-flip", "--norm", "anything").exit_code == 0
    run(command)
    assert received == [{"flip": False, "norm": "anything"}, {}], "the record itself refuses"
    words = " ".join(run(command, "--help").output.split())
    assert "--flip / --no-flip Flip. [default: yes]" in words
    assert "Rate. [default: of the size]" in words


def test_accept_old_options__old_names_and_values_work_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    received: list[Any] = []

    def command(path: str, upsampling: str = "", trust_plans: bool = False) -> None:
        received.append((path, upsampling, trust_plans))

    cls = accept_old_options(
        {"--trust-engines": "--trust-plans", "--form": OldOption("--upsampling", {"sub-pixel": "pixel-shuffle"})}
    )
    for form in (("--form", "sub-pixel"), ("--form=sub-pixel",), ("--upsampling", "pixel-shuffle")):
        outcome = run(command, "x", "--trust-engines", *form, cls=cls)
        assert outcome.exit_code == 0, outcome.output
        assert "note: --trust-engines is now --trust-plans" in outcome.output
        assert ("note: --form is now --upsampling" in outcome.output) == ("--upsampling" not in form)
    assert received == [("x", "pixel-shuffle", True)] * 3
    assert "--form" not in run(command, "--help", cls=cls).output
    run(command, "--", "--form", cls=cls)
    assert received[-1] == ("--form", "", False), "behind -- it is no option"


@pytest.mark.parametrize("verb", ["synth", "verify", "bench"])
def test_renamed_options__trust_engines_is_trust_plans(m2l: CommandLine, verb: str, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    save(tmp_path / "masks" / "a.png", disc())
    arguments = {
        "synth": (tmp_path / "masks", tmp_path / "out", "--bundle", TINY_BUNDLE, "--backend", "fake"),
        "verify": (TINY_BUNDLE,),
        "bench": (TINY_BUNDLE, "--backend", "fake", "--batch-size", "1", "--repeats", "1", "--seconds", "0.01"),
    }[verb]
    outcome = m2l(verb, *arguments, "--trust-engines")
    assert outcome.code == 0, outcome.err
    assert "m2l: note: --trust-engines is now --trust-plans" in outcome.err
    assert "--trust-engines" not in m2l(verb, "--help").out


def test_synth__offers_every_format() -> None:
    kind = get_type_hints(OutputFlags)["format"]
    assert set(get_args(get_args(kind)[0])) == {*FORMATS, "jpg"}


def test_help__imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['m2l', '--help']\n"
        "from m2l_runtime.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'PIL', 'msgspec', 'torch', 'onnx', 'onnxruntime'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    ending = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert ending.stderr.splitlines()[-1] == "[]"
