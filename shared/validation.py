"""Validation of text fields: length, blank text, control characters; names of people."""

import re
import unicodedata
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
        PERSON: The name of a person, which `normal_name` normalises.
    """

    NAME = "name"
    PROSE = "prose"
    SHA256 = "sha256"
    PERSON = "person"


# Control characters, line and paragraph separators, and surrogates, which UTF-8 cannot hold.
_CONTROLS: Final = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
# Unicode's default ignorable code points, and the marks of interlinear annotations: two names that
# differ in them look the same.
_INVISIBLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_FORBIDDEN: Final = {
    TextKind.NAME: re.compile(f"[{_CONTROLS}]"),
    TextKind.PROSE: re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]"),
    TextKind.PERSON: re.compile(f"[{_CONTROLS}{_INVISIBLE}]"),
}
# Most code points that one in the form NFC can be decomposed into.
_LONGEST_DECOMPOSITION: Final = 4
_SHA256: Final = re.compile("[0-9a-fA-F]{64}")
_SHOWN: Final = 80


def normal_name(name: str) -> str:
    """Give the form in which the name of a person is stored and compared.

    Unicode's form NFC, without white space at its ends, and with one space for each run of white
    space within it. Case is kept.
    """
    return " ".join(unicodedata.normalize("NFC", name).split())


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

    def check(self, field: str, text: str) -> str:
        """Check a text.

        Args:
            field: Path of the field, for the error.
            text: The value of the field.

        Returns:
            The text as it is stored: the name of a person normalised, any other text unchanged.

        Raises:
            InvalidInput: If the text breaks the rule; says what is valid.
        """
        if not text:
            if self.required:
                raise InvalidInput(field, f"is empty; {self._right} is needed")
            return text
        if self.kind is TextKind.PERSON:
            self._check_length(field, text, _LONGEST_DECOMPOSITION * self.max_characters)
        else:
            self._check_length(field, text, self.max_characters)
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
                f" control{' or invisible' if self.kind is TextKind.PERSON else ''} characters",
            )
        if self.kind is TextKind.PERSON:
            text = normal_name(text)
            self._check_length(field, text, self.max_characters)
        return text

    def _check_length(self, field: str, text: str, most: int) -> None:
        if len(text) > most:
            raise InvalidInput(
                field,
                f"has {len(text)} characters; at most {self.max_characters} are possible",
            )

    @property
    def _right(self) -> str:
        match self.kind:
            case TextKind.NAME | TextKind.PERSON:
                return f"one line of 1..{self.max_characters} characters"
            case TextKind.PROSE:
                return f"a text of 1..{self.max_characters} characters"
            case TextKind.SHA256:
                return "a SHA-256 of 64 hex digits"
