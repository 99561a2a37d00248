"""Erased images are removed from label reports, and nothing else is."""

from dataclasses import replace
from uuid import UUID

from pydantic import TypeAdapter

from services.trainer.data.label_report import (
    AnnotatorReliability,
    LabelReport,
    Suspicion,
    store_report,
    suspect,
)
from services.trainer.data.labels import LabelledPair, Vote
from services.trainer.data.left_out import LeftOutImage, LeftOutReason
from shared.registry.image_data import read_derived, remove_images
from shared.registry.label_reports import LABEL_REPORTS
from shared.storage.objects import ObjectStore

_REPORT = TypeAdapter(LabelReport)


def _report(*pairs: tuple[str, str]) -> LabelReport:
    suspects = [
        suspect(LabelledPair(a, b, True, 1.0, (Vote("ann", True),)), 0.9, Suspicion.UNLIKELY)
        for a, b in pairs
    ]
    return LabelReport(9, 0.2, True, tuple(suspects), (AnnotatorReliability("ann", 9, 0.8, 0.9),))


def test_an_erased_image_is_taken_out_of_every_report(object_store: ObjectStore) -> None:
    reports = [_report(("aa", "bb"), ("cc", "dd")), _report(("bb", "aa")), _report(("cc", "dd"))]
    no_face = LeftOutImage("bb", LeftOutReason.NO_FACE, "image.data: shows no face")
    unreadable = replace(no_face, sha256="cc", reason=LeftOutReason.UNREADABLE)
    reports.append(LabelReport(9, 0.0, False, (), (), (no_face, unreadable)))
    reports.append(LabelReport(9, 0.0, False, (), (), held_out=("bb", "cc")))
    for number, written in enumerate(reports):
        store_report(object_store, UUID(int=number), written)
    object_store.put(f"{LABEL_REPORTS}broken.json", b"[1, 2")
    object_store.put(f"{LABEL_REPORTS}no-hash.json", b'{"suspects": [{"sha256_a": "Jane"}]}')
    for report in read_derived(object_store):
        remove_images(object_store, report, [b"\xbb", b"\xee"])
    left = [
        _REPORT.validate_json(object_store.get(found.key))
        for found in object_store.list(LABEL_REPORTS)
    ]
    assert left == [
        *(_report(("cc", "dd")), _report(), _report(("cc", "dd"))),
        replace(reports[-2], left_out=(unreadable,)),
        replace(reports[-1], held_out=("cc",)),
    ]
