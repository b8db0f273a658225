"""What help says: in words, in groups, with examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from command_line import CommandLine

from m2l_runtime.backends.engines import BACKENDS
from m2l_runtime.cli.main import build_command


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from verbs(below, (*path, name))


VERBS = list(verbs(build_command()))


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_help__has_no_types_of_python(words: tuple[str, ...], m2l: CommandLine) -> None:
    outcome = m2l(*words, "--help")
    assert outcome.code == 0, outcome
    assert not re.search(r"<(int|str|float|bool|path)\b|list\[|\b(None|True|False) *[\]>]|<class|Literal", outcome.out)


@pytest.mark.parametrize("words", [("synth",), ("bench",), ("evaluate", "bundle")], ids=" ".join)
def test_help__lists_every_backend(words: tuple[str, ...], m2l: CommandLine) -> None:
    text = " ".join(m2l(*words, "--help").out.split())
    (line,) = re.findall(r"--backend .*?(?= --)", text)
    assert all(name in line for name in BACKENDS), line


def test_help__the_options_of_synth_are_in_groups_with_examples(m2l: CommandLine) -> None:
    text = m2l("synth", "--help").out
    titles = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert titles == [
        "Arguments",
        "Options",
        "Bundle and engine",
        "What is written",
        "What images look like",
        "The run",
    ]
    longest = max(len(re.findall(r"^  --", part, re.MULTILINE)) for part in re.split(r"^\S.*:$", text, flags=re.M))
    assert longest <= 10
    examples = re.findall(r"^ +(m2l synth .*)$", text, re.MULTILINE)
    assert len(examples) == 2


def test_help__examples_are_command_lines_that_there_are(m2l: CommandLine) -> None:
    for words in (("synth",), ("export",)):
        text = m2l(*words, "--help").out
        for example in re.findall(rf"^ +(m2l {words[0]} .*)$", text, re.MULTILINE):
            assert all(f"{option} " in text for option in re.findall(r"--[a-z-]+", example)), example


@pytest.mark.parametrize("words", ["shapes", "Shapes", "shape", "deform", "pca"])
def test_synth__a_kind_of_masks_without_a_count_is_told(words: str, m2l: CommandLine, tmp_path: Any) -> None:
    outcome = m2l("synth", words, tmp_path / "out")
    assert outcome.code == 1
    kind = "shapes" if words.lower().startswith("shape") else words
    assert f"to draw masks say how many: {kind}:COUNT, such as {kind}:200" in outcome.err
    assert "COUNT" not in m2l("synth", "masks", tmp_path / "out").err
