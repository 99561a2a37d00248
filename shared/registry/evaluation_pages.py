"""HTML reports of evaluations in the object store, and the removal of images from them.

A report is made from ``shared/evaluation/report/page.html``. It shows pairs of wrong decisions; the
name of an image on it is the SHA-256 of its file.
"""

import re
from collections.abc import Collection
from typing import Final
from uuid import UUID

EVALUATION_PAGES: Final = "evaluations/"

_PICTURE: Final = re.compile(rb"<img\b")
_NAMED_PICTURE: Final = re.compile(rb'<img src="[^"]*" alt="([0-9a-f]{64})"')
_PAIR: Final = re.compile(
    rb'<div class="card pair" data-rank="(\d+)".*?</figure>\s*</div>\s*<p>.*?</p>\s*</div>',
    re.DOTALL,
)
_REMOVED_PAIR: Final = (
    rb'<div class="card pair" data-rank="\1" data-similarity="0" data-magnitude="0">'
    rb'<p class="empty">removed because an image of this pair was erased</p></div>'
)
_REMOVED_PAGE: Final = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>removed</title></head>
<body><p>This page was removed because an image on it was erased. The figures of the evaluation
are still listed.</p></body></html>
"""


def page_key(job_id: UUID) -> str:
    """Return the object key of the report of an evaluation job."""
    return f"{EVALUATION_PAGES}{job_id}/report.html"


def images_on_page(data: bytes) -> frozenset[bytes]:
    """Return the SHA-256 of the images on a page.

    Raises:
        ValueError: If it shows a picture without the hash of its image.
    """
    names: list[bytes] = _NAMED_PICTURE.findall(data)
    if len(names) != len(_PICTURE.findall(data)):
        raise ValueError("a picture on it is not named by the hash of its image")
    return frozenset(bytes.fromhex(name.decode()) for name in names)


def page_without(data: bytes, hashes: Collection[bytes]) -> bytes:
    """Replace the pairs with some images of a page by a note; the figures stay unchanged.

    Returns:
        The page. If an image cannot be taken out of it, a note in place of the whole page.
    """
    names = [sha256.hex().encode() for sha256 in hashes]

    def replace(pair: re.Match[bytes]) -> bytes:
        named = any(name in pair[0] for name in names)
        return pair.expand(_REMOVED_PAIR) if named else pair[0]

    page = _PAIR.sub(replace, data)
    return _REMOVED_PAGE if any(name in page for name in names) else page
