"""Read a page of a report: its elements and texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

EVIL = "<script>alert(1)<script>\"'><img src=x onerror=alert(2)>&amp;${x}{{7*7}}"
"""A name that must be shown as it is."""


@dataclass
class Page(HTMLParser):
    """Elements and texts of a page."""

    source: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    _inside: list[str] = field(default_factory=list)
    style: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._inside:
            self.style += data
        else:
            self.texts.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(filter(None, self.texts))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def alt(self, words: str) -> list[dict[str, str]]:
        return [image for image in self.all("img") if words in image["alt"]]
