"""What people see on a terminal: names of classes, files and folders literally, whatever they hold."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

_NOT_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, marks that turn the direction of writing, bytes that were not UTF-8."""


def printable(text: str) -> str:
    """Return a text with every character that a terminal would obey or cannot show spelled out, as in \\x1b."""
    return _NOT_SHOWN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


class PlainConsole(Console):
    """A console of rich that shows text as it is: no markup, no emoji codes, no escape sequences of others."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False, highlight: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=soft_wrap, highlight=highlight, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make rich's text of a string; every printed string and every cell of a table comes here."""
        return super().render_str(printable(text), **options)
