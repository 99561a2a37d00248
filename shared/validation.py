"""Validation of text fields: length, blank text, control characters."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from shared.errors import InvalidInput


class TextKind(Enum):
    """Characters that a text may have.

    Attributes:
        NAME: A name or an id: one line.
        PROSE: Free text, which may have tabs and several lines.
        SHA256: 64 hexadecimal digits, in upper or lower case.
    """

    NAME = "name"
    PROSE = "prose"
    SHA256 = "sha256"


# Control characters, line and paragraph separators, and surrogates, which UTF-8 cannot hold.
_FORBIDDEN: Final = {
    TextKind.NAME: re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"),
    TextKind.PROSE: re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]"),
}
_SHA256: Final = re.compile("[0-9a-fA-F]{64}")
_SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class TextRule:
    """The rule for one text field.

    Attributes:
        kind: The characters it may have.
        max_characters: Most Unicode code points.
        required: Whether it must not be empty. A text of white space alone is always refused.
    """

    kind: TextKind
    max_characters: int
    required: bool

    def check(self, field: str, text: str) -> None:
        """Check a text.

        Args:
            field: Path of the field, for the error.
            text: The value of the field.

        Raises:
            InvalidInput: If the text breaks the rule; says what is valid.
        """
        if not text:
            if self.required:
                raise InvalidInput(field, f"is empty; {self._right} is needed")
            return
        if len(text) > self.max_characters:
            raise InvalidInput(
                field, f"has {len(text)} characters; at most {self.max_characters} are possible"
            )
        if text.isspace():
            otherwise = "is needed" if self.required else "or no text at all is possible"
            raise InvalidInput(field, f"is blank; {self._right} {otherwise}")
        if self.kind is TextKind.SHA256:
            if not _SHA256.fullmatch(text):
                raise InvalidInput(field, f"is {text[:_SHOWN]!r}; a SHA-256 is 64 hex digits")
        elif found := _FORBIDDEN[self.kind].search(text):
            raise InvalidInput(
                field,
                f"holds U+{ord(found[0]):04X} at place {found.start()}; {self._right} has no"
                " control characters",
            )

    @property
    def _right(self) -> str:
        match self.kind:
            case TextKind.NAME:
                return f"one line of 1..{self.max_characters} characters"
            case TextKind.PROSE:
                return f"a text of 1..{self.max_characters} characters"
            case TextKind.SHA256:
                return "a SHA-256 of 64 hex digits"
