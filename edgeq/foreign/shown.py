"""Text of files and users, made fit for terminals, logs of CI, XML and HTML.

Names come from anywhere: one may hold escape sequences, turn what follows it around, or begin a
command of GitHub's. What a reader would not see is shown as an escape. Knows nothing of reports.
"""

from __future__ import annotations

import re
import unicodedata

from rich.markup import escape as _without_markup

_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Controls of ASCII and Latin-1, and characters that show nothing but direct what is near them."""

_COMMANDS = (
    "add-mask", "add-matcher", "add-path", "debug", "echo", "endgroup", "error", "group", "notice",
    "remove-matcher", "save-state", "set-env", "set-output", "stop-commands", "warning",
)  # fmt: skip

_COMMAND = re.compile(rf"::(?=(?:{'|'.join(_COMMANDS)})\b)|##(?=\[)", re.IGNORECASE)
"""How a line begins that GitHub's runner takes for a command.

Source:
    GitHub's "Workflow commands", and `ActionCommand.cs` of its runner.
"""


def visible(text: str) -> str:
    """Text in one line in which nothing is hidden and nothing is a command."""
    shown = "".join(map(_shown, text)) if not text.isascii() or not text.isprintable() else text
    return _COMMAND.sub(lambda found: f"{found[0][0]}\\{found[0][1]}", shown)


def _shown(character: str) -> str:
    is_surrogate = unicodedata.category(character) in ("Cs", "Cn", "Co")
    if is_surrogate or _HIDDEN.match(character):
        return character.encode("unicode_escape").decode("ascii")
    return character


def lines(text: str) -> str:
    """As `visible`, for text that may have several lines."""
    return "\n".join(map(visible, text.split("\n")))


def escape(text: str) -> str:
    """As `visible`, for text with rich's markup around it, such as a table's."""
    return _without_markup(visible(text))


def escape_lines(text: str) -> str:
    """As `escape`, for text that may have several lines."""
    return _without_markup(lines(text))


def annotation(text: str, is_property: bool = False) -> str:
    """As `lines`, for a message of GitHub's workflow commands, or for one of its properties.

    Source:
        GitHub's `@actions/core`, `escapeData` and `escapeProperty`.
    """
    codes = {"%": "%25", "\r": "%0D", "\n": "%0A"}
    if is_property:
        codes |= {":": "%3A", ",": "%2C"}
    return "".join(codes.get(character, character) for character in lines(text))
