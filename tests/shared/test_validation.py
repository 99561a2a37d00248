"""Validation of one text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidInput
from shared.validation import TextKind, TextRule, normal_name
from tests.support.texts import LOOKALIKES, SPELLINGS

ANY = st.text(st.characters(codec=None), max_size=40) | st.text(
    " \t\n\0\x1f\x85\u2028ab", max_size=8
)


def accepts(rule: TextRule, text: str) -> bool:
    try:
        rule.check("field", text)
    except InvalidInput as error:
        assert error.field == "field"
        error.reason.encode()
        return False
    return True


@given(ANY, st.sampled_from([TextKind.NAME, TextKind.PROSE]), st.integers(1, 40), st.booleans())
def test_a_text_is_accepted_exactly_if_it_keeps_its_rule(
    text: str, kind: TextKind, most: int, required: bool
) -> None:
    allowed = "\t\n\r" if kind is TextKind.PROSE else ""
    forbidden = {"Cc", "Cs"} if kind is TextKind.PROSE else {"Cc", "Cs", "Zl", "Zp"}
    keeps = (
        len(text) <= most
        and bool(text.strip())
        and not any(unicodedata.category(c) in forbidden and c not in allowed for c in text)
    )
    assert accepts(TextRule(kind, most, required), text) == (keeps or (not text and not required))


@given(ANY)
def test_a_name_is_normalised_once_and_for_all(text: str) -> None:
    name = normal_name(text)
    assert normal_name(name) == name == unicodedata.normalize("NFC", name).strip()
    rule = TextRule(TextKind.PERSON, 200, required=False)
    if accepts(rule, text):
        assert rule.check("field", text) == name
        assert accepts(TextRule(TextKind.PERSON, 200, required=bool(text)), name)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_spellings_of_a_name_become_one(spelling: str) -> None:
    rule = TextRule(TextKind.PERSON, 7, required=True)
    assert rule.check("field", spelling) == "Zo\u00eb Roe"


def test_case_distinguishes_names() -> None:
    assert normal_name("Ann") != normal_name("ann")


@pytest.mark.parametrize("name", LOOKALIKES)
def test_an_invisible_character_in_a_name_is_refused(name: str) -> None:
    assert not accepts(TextRule(TextKind.PERSON, 128, required=True), name)
    assert accepts(TextRule(TextKind.NAME, 128, required=True), name)


@given(st.text("0123456789abcdefABCDEFg \0", min_size=60, max_size=64))
def test_a_hash_is_64_hex_digits(text: str) -> None:
    rule = TextRule(TextKind.SHA256, 64, required=True)
    assert accepts(rule, text) == (len(text) == 64 and not set(text) & set("g \0"))


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        (TextRule(TextKind.NAME, 128, True), "", "is empty; one line of 1..128 characters is"),
        (TextRule(TextKind.NAME, 128, True), " ", "is blank; one line of 1..128 characters is"),
        (TextRule(TextKind.PROSE, 9, False), " ", "is blank; a text of 1..9 characters or no text"),
        (TextRule(TextKind.NAME, 128, True), "x" * 129, "has 129 characters; at most 128"),
        (TextRule(TextKind.NAME, 128, True), "ad\0a", "holds U\\+0000 at place 2"),
        (TextRule(TextKind.SHA256, 64, True), "abc", "is 'abc'; a SHA-256 is 64 hex digits"),
    ],
)
def test_a_refusal_says_what_would_be_right(rule: TextRule, text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"^field: {reason}"):
        rule.check("field", text)
