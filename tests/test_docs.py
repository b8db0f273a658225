"""The reference of the Python API has what the packages export, and nothing else."""

from __future__ import annotations

import dataclasses
import importlib
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize(
    ("page", "package"), [("runtime", "m2l_runtime"), ("train", "m2l_train"), ("export", "m2l_export")]
)
def test_api_page__has_every_public_name(page: str, package: str) -> None:
    listed = re.findall(rf"^::: {package}\.(\w+)$", (DOCS / "api" / f"{page}.md").read_text(), re.M)
    public = importlib.import_module(package).__all__
    assert sorted(listed) == sorted(set(public) - {"__version__"})


def test_mkdocs__lists_every_page() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (DOCS.parent / "mkdocs.yml").read_text()))
    assert listed == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def test_training_page__names_each_field_that_is_not_called_as_its_option() -> None:
    pytest.importorskip("m2l_train")
    from m2l_train.config import FIELD_BY_FLAG, TrainConfig

    page = (DOCS / "training.md").read_text()
    table = page.partition("| option | field, and entry of `config.json` |")[2].partition("\n\n")[0]
    listed = {field: option for option, field in re.findall(r"^\| `--([\w-]+)` \| `(\w+)` \|$", table, re.M)}
    renamed = {f.name: f.metadata["flag"] for f in dataclasses.fields(TrainConfig) if f.metadata["flag"] is not None}
    assert listed == renamed
    assert {flag.replace("_", "-"): field for flag, field in FIELD_BY_FLAG.items()} == {
        v: k for k, v in renamed.items()
    }


OUTPUT_PLACES = {"synth": 1, "export": 1, "train": 1, "prepare": 2, "masks shapes": 0, "masks deform": 1}
"""Which argument of a command is the folder that it makes, counted from 0."""
SWITCHES = {"--pairs", "--stochastic", "--tensorrt", "--no-compile", "--dropout"}
PAGES_TO_TYPE = [
    ("README.md", "docs/bulk.md"),
    *((f"docs/{p.name}",) for p in DOCS.glob("*.md") if p.name != "bulk.md"),
]


def outputs_in(page: str) -> list[str]:
    """Folders that the commands in a page's blocks make, but where an earlier run is meant to go on."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (DOCS.parent / page).read_text(), re.M | re.S)
    found = []
    for line in re.findall(r"^m2l .*", "".join(blocks).replace("\\\n", " "), re.M):
        words = shlex.split(line.partition(" && ")[0], comments=True)[1:]
        verb = " ".join(words[:2]) if words[0] == "masks" else words[0]
        if verb not in OUTPUT_PLACES or "--resume" in words or "--overwrite" in words:
            continue
        arguments, is_value = [], False
        for word in words[len(verb.split()) :]:
            if word.startswith("-"):
                is_value = word not in SWITCHES and not word.startswith("--no-")
            elif not is_value:
                arguments.append(word)
            else:
                is_value = False
        found.append(arguments[OUTPUT_PLACES[verb]].rstrip("/"))
    return found


@pytest.mark.parametrize("pages", PAGES_TO_TYPE, ids=" ".join)
def test_recipes__can_be_typed_one_after_another_in_one_folder(pages: tuple[str, ...]) -> None:
    counts = Counter(output for page in pages for output in outputs_in(page))
    assert [output for output, count in counts.items() if count > 1] == []
    if "README.md" in pages:
        assert {"lesions", "drawn-lesions", "my-bundle", "my-lesions", "data", "run", "pairs", "samples"} <= set(counts)


@pytest.mark.parametrize(("package", "title"), [("torch", "PyTorch"), ("onnx", "onnx")])
def test_readme__and_doctor_name_the_same_commands_that_need_a_package(package: str, title: str) -> None:
    from m2l_runtime.doctor import NEEDED_BY

    rows = re.findall(r"^\| `[^|]*` \| ([^|]*) \| ([^|]*) \|$", (DOCS.parent / "README.md").read_text(), re.M)
    uses = [use.partition(" (")[0] for use, installs in rows if title in re.findall(r"\w+", installs)]
    assert sorted(re.findall(r"`m2l (\w+)`", " ".join(uses))) == sorted(NEEDED_BY[package])


def test_bench_page__names_every_key_of_the_json() -> None:
    from bench_reports import make_report, make_row

    from m2l_runtime.bench.report import as_json

    report = as_json(make_report(make_row(1, 10.0, 20.0)))
    page = (DOCS / "bench.md").read_text()
    assert [key for key in (*report, *report["rows"][0]) if f'"{key}"' not in page] == []
