"""An HTML page taken apart: its resources, sections and words."""

import re
from collections import Counter
from html.parser import HTMLParser

LOADING = {"src", "href", "srcset", "data", "poster", "action"}


class Page(HTMLParser):
    """The parts of an HTML page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = re.findall(r"url\(([^)]*)\)|@import", html)
        self.sections: dict[str, str] = {}  # id: visible text
        self.images: Counter[str] = Counter()  # by section
        self.scripts = 0
        self._section = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loaded += [value or "" for name, value in attrs if name in LOADING]
        self.scripts += tag == "script"
        if tag in ("header", "section"):
            self._section = values["id"] or ""
            self.sections[self._section] = ""
        self.images[self._section] += tag == "img"

    def handle_data(self, data: str) -> None:
        if self._section:
            self.sections[self._section] += f" {data.strip()}" if data.strip() else ""
