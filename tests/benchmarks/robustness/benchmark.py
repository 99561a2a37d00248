"""Robustness of face detection, today's and the old procedure's (`make bench-robustness`).

Each person's photograph is changed in many ways. A change should alter neither the embedding nor a
decision: the photograph is compared with an aligned crop of the same and of another person.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from shared.errors import InvalidInput, PreconditionFailed
from shared.model.image.detection.choice import choose_face, require_whole_face
from shared.model.image.detection.detector import FaceDetector
from shared.model.image.detection.yunet import find_detector_model
from shared.model.image.face import DetectedFace, FaceImage
from shared.model.manifest import read_manifest
from shared.model.sessions.factory import open_session
from shared.settings import ImageLimits
from tests.benchmarks.progress import log
from tests.benchmarks.robustness.judgement import Choose, Judge, Outcome
from tests.benchmarks.robustness.old_procedure import SinglePassDetector
from tests.benchmarks.robustness.people import (
    Person,
    Picture,
    photographed_people,
    rendered_people,
)
from tests.benchmarks.robustness.scenes import count_right_choices
from tests.benchmarks.robustness.speed import time_per_photograph
from tests.benchmarks.robustness.table import make_table
from tests.benchmarks.robustness.variants import variants
from tests.default_version import export_default

_MATERIAL = Path("../shared")
_RENDERED = 24
_SCENES = 200

Rows = dict[str, dict[str, Any]]


def run(_: Path) -> dict[str, Any]:
    """Measure both procedures with both kinds of people, and print the tables."""
    path = find_detector_model(ImageLimits())
    if path is None:
        raise PreconditionFailed("there is no face detector: install the extra `detect`")
    old, new = SinglePassDetector(path), FaceDetector(path)

    def choose_new(image: Picture) -> DetectedFace:
        face = choose_face(new.find(image), FaceImage(b"", "detect"), "image")
        require_whole_face(face, image.shape[1], image.shape[0], "image")
        return face

    procedures: dict[str, Choose] = {"old": old.choose, "today": choose_new}
    people: dict[str, list[Person]] = {}
    if (_MATERIAL / "faces" / "raw").is_dir():
        people["photographs"] = photographed_people(_MATERIAL)
    people["rendered"] = rendered_people(_RENDERED)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        version = export_default(Path(scratch) / "default")
        session, threshold = open_session(version), read_manifest(version).threshold
        for kind, found in people.items():
            usable = _usable(found, old)
            judge = Judge(session, threshold, usable)
            rows = _measure(kind, judge, usable, procedures)
            table = make_table(rows)
            sys.stdout.write(f"\n{len(usable)} {kind}\n\n{table}")
            figures[kind] = {"people": len(usable), "rows": rows, "table": table}
    return figures


def _usable(people: list[Person], old: SinglePassDetector) -> list[Person]:
    """Return the people whose unchanged photographs the old procedure finds a face in."""

    def found(person: Person) -> bool:
        try:
            old.choose(person.photograph)
        except InvalidInput:
            return False
        return True

    return [person for person in people if found(person)]


def _measure(kind: str, judge: Judge, people: list[Person], procedures: dict[str, Choose]) -> Rows:
    boxes = [procedures["old"](person.photograph).box for person in people]
    plain = {
        name: judge.embed(choose, (person.photograph for person in people))
        for name, choose in procedures.items()
    }
    rows: Rows = {
        "as they are": {
            name: judge.compare(plain[name], plain["old"]).as_dict() for name in procedures
        },
    }
    for variant in variants():
        rows[variant.name] = {}
        for name, choose in procedures.items():
            seen = judge.embed(choose, variant.of_all([p.photograph for p in people], boxes))
            outcome: Outcome = judge.compare(seen, plain[name])
            rows[variant.name][name] = outcome.as_dict()
        log(f"{kind}: {variant.name}: {rows[variant.name]}")
    rows["two faces, the larger one chosen"] = {
        name: {"right": count_right_choices(choose, people, boxes, _SCENES), "of": _SCENES}
        for name, choose in procedures.items()
    }
    rows["time per photograph"] = time_per_photograph(people, procedures)
    return rows
