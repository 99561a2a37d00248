import pytest

from services.feedback.labels.service import LabelService
from services.feedback.labels.types import Label, PairSummary
from tests.services.feedback.support.helpers import feedback, sha256


async def _pages(
    store: LabelService, consensus: Label | None, size: int
) -> list[list[PairSummary]]:
    pages, token = [], ""
    while True:
        page, token = await store.list_pairs(consensus, size, token)
        pages.append(page)
        if not token:
            return pages


@pytest.fixture
async def ten_pairs(store: LabelService) -> list[int]:
    """Ids of ten pairs in the order of their labels: SAME, DIFFERENT and UNSURE in turn."""
    labels = [Label.SAME, Label.DIFFERENT, Label.UNSURE] * 4
    receipts = [await store.submit(feedback(1, 2 + n, label=labels[n])) for n in range(10)]
    return [receipt.pair_id for receipt in receipts]


@pytest.mark.parametrize("size", [1, 3, 5, 10, 1000])
async def test_pages_hold_each_pair_once_newest_first(
    store: LabelService, ten_pairs: list[int], size: int
) -> None:
    pages = await _pages(store, None, size)
    assert [pair.pair_id for page in pages for pair in page] == ten_pairs[::-1]
    assert all(len(page) == size for page in pages[:-1])
    assert pages[-1]


@pytest.mark.parametrize("label", Label)
async def test_a_consensus_lists_its_pairs_only(
    store: LabelService, ten_pairs: list[int], label: Label
) -> None:
    pages = await _pages(store, label, 2)
    wanted = ten_pairs[list(Label).index(label) :: 3]
    assert [pair.pair_id for page in pages for pair in page] == wanted[::-1]
    assert {pair.consensus for page in pages for pair in page} == {label}


async def test_pages_go_on_where_they_were_while_pairs_are_added(
    store: LabelService, ten_pairs: list[int]
) -> None:
    page, token = await store.list_pairs(None, 4, "")
    await store.submit(feedback(1, 50))
    await store.submit(feedback(image_a=sha256(1), image_b=sha256(2), annotator="bob"))
    rest, last = await store.list_pairs(None, 100, token)
    assert [pair.pair_id for pair in page + rest] == ten_pairs[::-1]
    assert last == ""


async def test_nothing_stored_is_one_empty_page(store: LabelService) -> None:
    assert await store.list_pairs(None, 0, "") == ([], "")
