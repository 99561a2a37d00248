"""Erased images are taken out of pages of evaluations; the figures stay."""

import base64
import hashlib
import re

import pytest

from shared.registry.evaluation_pages import images_on_page, page_without
from tests.shared.registry.pages import write_page

HASHES = [hashlib.sha256(bytes([number])).hexdigest() for number in range(5)]
ERASED = bytes.fromhex(HASHES[1])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_page(tmp_path_factory.mktemp("page") / "page.html", HASHES).read_bytes()


def _pictures(page: bytes) -> set[bytes]:
    return set(re.findall(rb"data:image/jpeg;base64,([^\"]+)", page))


def test_the_images_on_a_page_are_told_by_their_hashes(page: bytes) -> None:
    assert images_on_page(page) == {bytes.fromhex(sha256) for sha256 in HASHES}


def test_the_pairs_with_an_erased_image_are_replaced_and_all_else_stays(page: bytes) -> None:
    left = page_without(page, [ERASED])
    assert images_on_page(left) == {bytes.fromhex(HASHES[number]) for number in (2, 3, 4)}
    assert len(_pictures(page)) == 5
    assert len(_pictures(left)) == 3
    assert HASHES[1].encode() not in left
    # Two pairs, in the sections of errors and of new errors.
    assert left.count(b"removed because an image of this pair was erased") == 4
    for figure in (b"4 genuine and 0 impostor pairs of 5 images", b"Similarities", b"false"):
        assert page.count(figure) == left.count(figure) > 0
    assert left.count(b"<div") - left.count(b"</div") == page.count(b"<div") - page.count(b"</div")
    assert left.count(b'class="card pair"') == page.count(b'class="card pair"')
    assert page_without(left, [ERASED]) == left
    for picture in _pictures(page):
        assert base64.b64decode(picture).startswith(b"\xff\xd8")


def test_a_page_that_names_an_image_elsewhere_is_replaced_as_a_whole(page: bytes) -> None:
    odd = page.replace(b"</footer>", HASHES[1].encode() + b"</footer>")
    left = page_without(odd, [ERASED])
    assert b"removed because an image on it was erased" in left
    assert not images_on_page(left)


def test_the_images_of_unnamed_pictures_are_not_known(page: bytes) -> None:
    with pytest.raises(ValueError, match="not named by the hash"):
        images_on_page(page.replace(b'alt="' + HASHES[2].encode(), b'alt="somebody'))
    assert images_on_page(b"no page") == frozenset()
