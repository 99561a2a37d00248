"""HTML report of an evaluation, as one self-contained file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import cv2
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from shared.datasets.pairs import PairSet
from shared.evaluation.compare import compare
from shared.evaluation.embed import CropReader
from shared.evaluation.measure import Measurement
from shared.evaluation.report import plots
from shared.evaluation.report.formatting import (
    change_lines,
    group_lines,
    headlines,
    inequity_lines,
    percent,
    tar_lines,
)
from shared.evaluation.report.wrong_decisions import ErrorKind, find_errors
from shared.evaluation.results import Changes

_MOST_PAIRS_SHOWN = 60


@dataclass(frozen=True)
class _Face:
    """One face of a pair; the picture is a data URL."""

    name: str
    magnitude: float
    picture: str


@dataclass(frozen=True)
class _Pair:
    """A pair with the figures to sort by; `magnitude` is the smaller one of its two faces."""

    similarity: float
    old_similarity: float | None
    magnitude: float
    faces: tuple[_Face, _Face]


@dataclass(frozen=True)
class _Section:
    """Pairs under one heading; `total` also counts the pairs that are not shown."""

    title: str
    note: str
    order: str
    total: int
    pairs: list[_Pair]

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


class _PairViews:
    """Makes the template's data of pairs; each crop is encoded once."""

    def __init__(
        self, pair_set: PairSet, crops: CropReader, measured: Measurement, old: Measurement | None
    ) -> None:
        self._pair_set = pair_set
        self._crops = crops
        self._measured = measured
        self._old = old
        self._faces: dict[int, _Face] = {}

    def section(self, title: str, note: str, order: str, pairs: Sequence[int]) -> _Section:
        chosen = [self._show(int(pair)) for pair in pairs[:_MOST_PAIRS_SHOWN]]
        return _Section(title, note, order, len(pairs), chosen)

    def _show(self, pair: int) -> _Pair:
        first, second = (self._face(image) for image in self._pair_set.pairs[pair].tolist())
        return _Pair(
            similarity=float(self._measured.scores.similarity[pair]),
            old_similarity=float(self._old.scores.similarity[pair]) if self._old else None,
            magnitude=min(first.magnitude, second.magnitude),
            faces=(first, second),
        )

    def _face(self, image: int) -> _Face:
        if image not in self._faces:
            _, jpeg = cv2.imencode(".jpg", self._crops(image), [cv2.IMWRITE_JPEG_QUALITY, 88])
            encoded = base64.b64encode(jpeg.tobytes()).decode()
            self._faces[image] = _Face(
                name=self._name(image),
                magnitude=float(self._measured.embedded.magnitudes[image]),
                picture=f"data:image/jpeg;base64,{encoded}",
            )
        return self._faces[image]

    def _name(self, image: int) -> str:
        source = self._pair_set.images[image]
        if isinstance(source, bytes):
            return self._pair_set.name(image)
        person = source.parent.name
        return source.name if source.name.startswith(person) else f"{person}/{source.name}"


def write_report(
    path: Path,
    pair_set: PairSet,
    measured: Measurement,
    crops: CropReader,
    old: Measurement | None = None,
) -> None:
    """Write the report.

    Args:
        path: The file; an existing file is replaced.
        pair_set: The pair set of the measurement.
        measured: The measurement to report.
        crops: Reads the crops that the network got.
        old: Measurement of another model on the same pairs, to compare with.
    """
    evaluation = measured.evaluation
    views = _PairViews(pair_set, crops, measured, old)
    sections = _error_sections(views, measured, pair_set)
    changed = compare(old, measured, pair_set) if old else None
    changes = (
        change_lines(old.evaluation, evaluation, changed.comparison) if old and changed else ()
    )
    if changed:
        sections += _change_sections(views, changed)
    curve = evaluation.error_versus_reject
    groups = measured.groups
    page = _template().render(
        measured=measured,
        e=evaluation,
        old=old,
        mcnemar=changed.comparison.mcnemar if changed else None,
        changes=changes,
        headlines=headlines(evaluation),
        tar=tar_lines(evaluation),
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        histograms=plots.similarity_histograms(measured.scores, evaluation.threshold),
        roc=plots.roc_curve(measured, old) if evaluation.auc is not None else None,
        reject=plots.error_versus_reject(curve) if curve else None,
        group_lines=group_lines(groups) if groups else [],
        inequities=inequity_lines(groups) if groups else [],
        group_plots=plots.group_rates(groups, old.groups if old else None) if groups else [],
        sections=sections,
    )
    path.write_text(page, encoding="utf-8")


def _error_sections(views: _PairViews, measured: Measurement, pair_set: PairSet) -> list[_Section]:
    kinds: dict[ErrorKind, tuple[str, str]] = {
        "false_positive": ("False positives", "different people, accepted as the same person"),
        "false_negative": ("False negatives", "the same person, rejected as different people"),
    }
    errors = find_errors(measured, pair_set)
    return [
        views.section(*words, "worst", [error.pair for error in errors if error.kind == kind])
        for kind, words in kinds.items()
    ]


def _change_sections(views: _PairViews, changed: Changes) -> list[_Section]:
    parts = (
        ("New errors", "correct before, wrong now", changed.broken),
        ("Fixed errors", "wrong before, correct now", changed.fixed),
    )
    return [
        views.section(title, note, "change", [pair.pair for pair in pairs])
        for title, note, pairs in parts
    ]


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("shared.evaluation.report.page", "."),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
    )
    environment.filters["percent"] = percent
    return environment.get_template("page.html")
