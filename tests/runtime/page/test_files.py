"""The page's files: types, links, and that nothing in them breaks the policy or reaches another machine."""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser

import pytest

from m2l_runtime.output.encoding import SYNTHETIC
from m2l_runtime.page import page_files
from m2l_runtime.page.config import NOTICE

MODULES = [name for name in page_files() if name.endswith(".js")]


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]


def text_of(name: str) -> str:
    return page_files()[name].content.decode()


INDEX = Elements(text_of("index.html"))


def test_page_files__have_types_and_content() -> None:
    types = {name.rpartition(".")[2]: file.media_type for name, file in page_files().items()}
    assert types == {
        "html": "text/html; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "svg": "image/svg+xml",
    }
    assert all(file.content for file in page_files().values())


def test_page_files__cannot_be_altered() -> None:
    with pytest.raises(TypeError):
        page_files()["index.html"] = None  # type: ignore[index]


def test_index__has_a_policy_that_lets_nothing_else_in() -> None:
    (policy,) = [one["content"] for one in INDEX.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    rules = {name: words for name, *words in (rule.split() for rule in policy.split(";"))}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == ["'none'"]
    assert rules["script-src"] == ["'self'", "'wasm-unsafe-eval'"]
    assert rules["connect-src"] == rules["style-src"] == rules["worker-src"] == ["'self'"]
    assert "unsafe-inline" not in policy
    assert "unsafe-eval'" not in policy.replace("wasm-unsafe-eval'", "")


def test_index__has_no_inline_script_or_style() -> None:
    assert INDEX.all("style") == []
    assert all(script.get("src") for script in INDEX.all("script"))
    assert [
        name for _, attributes in INDEX.found for name in attributes if name == "style" or name.startswith("on")
    ] == []


@pytest.mark.parametrize("name", page_files())
def test_page_files__name_no_other_machine(name: str) -> None:
    addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]{2,}\S*", text_of(name)))
    assert {one for one in addresses if "www.w3.org/2000/svg" not in one} == set()


def test_index__links_to_files_that_are_there() -> None:
    links = [one[key] for tag, key in (("link", "href"), ("script", "src"), ("img", "src")) for one in INDEX.all(tag)]
    assert links
    assert set(links) <= set(page_files())


@pytest.mark.parametrize("name", MODULES)
def test_modules__import_files_that_are_there(name: str) -> None:
    imports = re.findall(r'from "(\./[^"]+)"', text_of(name))
    assert {posixpath.normpath(one) for one in imports} <= set(page_files())


def test_modules__are_all_used() -> None:
    used = {posixpath.normpath(one) for name in MODULES for one in re.findall(r'from "(\./[^"]+)"', text_of(name))}
    assert set(MODULES) - used == {"app.js", "worker.js"}


def test_modules__find_every_element_they_name() -> None:
    named = set(re.findall(r'\$\("([\w-]+)"\)', text_of("app.js")))
    assert named
    assert named <= {attributes.get("id") for _, attributes in INDEX.found}


def test_index__every_field_has_a_label() -> None:
    labeled = {label["for"] for label in INDEX.all("label") if "for" in label}
    fields = [one for tag in ("input", "select") for one in INDEX.all(tag) if one.get("type") != "radio"]
    assert {field["id"] for field in fields} == labeled


def test_notice__is_on_the_page_before_any_script_runs() -> None:
    assert NOTICE in text_of("index.html")
    assert "not for diagnosis" in NOTICE
    assert "not for diagnosis" in SYNTHETIC
