"""One self-contained HTML page about an evaluation."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import cv2
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from shared.datasets.pairs import PairSet
from shared.evaluation import plots
from shared.evaluation.compare import Comparison, compare
from shared.evaluation.embed_set import EmbeddedSet
from shared.evaluation.errors import Crops, PairError, find_errors
from shared.evaluation.evaluation import Evaluation, score
from shared.evaluation.scores import Scores

_MOST_PAIRS_SHOWN = 60


@dataclass(frozen=True)
class Measured:
    """A model and what was measured of it on a report's pairs."""

    name: str
    embedded: EmbeddedSet
    evaluation: Evaluation


@dataclass(frozen=True)
class _Shown:
    """A pair as the page has it: its pictures as data URLs, and the figures to sort by."""

    genuine: bool
    similarity: float
    old_similarity: float | None
    magnitude: float
    names: tuple[str, str]
    pictures: tuple[str, str]


@dataclass(frozen=True)
class _Section:
    """Pairs under one heading; `total` counts those that are not shown too."""

    title: str
    note: str
    total: int
    pairs: list[_Shown]


class _Shelf:
    """Turns pairs into what the page shows, each crop encoded once."""

    def __init__(
        self,
        pair_set: PairSet,
        crops: Crops,
        embedded: EmbeddedSet,
        scores: Scores,
        old: Scores | None,
    ) -> None:
        self._pair_set = pair_set
        self._crops = crops
        self._embedded = embedded
        self._scores = scores
        self._old = old
        self._pictures: dict[int, str] = {}

    def section(self, title: str, note: str, pairs: Sequence[int]) -> _Section:
        chosen = [self._show(int(pair)) for pair in pairs[:_MOST_PAIRS_SHOWN]]
        return _Section(title, note, len(pairs), chosen)

    def _show(self, pair: int) -> _Shown:
        a, b = self._pair_set.pairs[pair].tolist()
        return _Shown(
            genuine=bool(self._pair_set.labels[pair]),
            similarity=float(self._scores.similarity[pair]),
            old_similarity=float(self._old.similarity[pair]) if self._old else None,
            magnitude=float(self._embedded.magnitudes[[a, b]].min()),
            names=(self._name(a), self._name(b)),
            pictures=(self._picture(a), self._picture(b)),
        )

    def _name(self, image: int) -> str:
        source = self._pair_set.images[image]
        if isinstance(source, bytes):
            return self._pair_set.name(image)
        return f"{source.parent.name}/{source.name}"

    def _picture(self, image: int) -> str:
        if image not in self._pictures:
            _, jpeg = cv2.imencode(".jpg", self._crops(image), [cv2.IMWRITE_JPEG_QUALITY, 88])
            encoded = base64.b64encode(jpeg.tobytes()).decode()
            self._pictures[image] = f"data:image/jpeg;base64,{encoded}"
        return self._pictures[image]


def write_report(
    path: Path, pair_set: PairSet, measured: Measured, crops: Crops, old: Measured | None = None
) -> None:
    """Write the page.

    Args:
        path: The file; replaced when it exists.
        pair_set: What was measured on.
        measured: The model the page is about.
        crops: Gives what the network saw.
        old: Another model to compare with, measured on the same pairs.
    """
    scores = score(measured.embedded, pair_set)
    old_scores = None if old is None else score(old.embedded, pair_set)
    threshold = measured.evaluation.threshold
    shelf = _Shelf(pair_set, crops, measured.embedded, scores, old_scores)
    sections = _error_sections(shelf, find_errors(scores, threshold, measured.embedded, pair_set))
    changed: Comparison | None = None
    if old is not None and old_scores is not None:
        changed = compare(old_scores, old.evaluation.threshold, scores, threshold)
        sections += _change_sections(shelf, changed)
    curve = measured.evaluation.error_versus_reject
    page = _template().render(
        measured=measured,
        old=old,
        changed=changed,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        histograms=plots.similarity_histograms(scores, threshold),
        roc=plots.roc_curve(scores, old_scores),
        reject=plots.error_versus_reject(curve) if curve else None,
        sections=sections,
    )
    path.write_text(page, encoding="utf-8")


def _error_sections(shelf: _Shelf, errors: list[PairError]) -> list[_Section]:
    false_positives = [error.pair for error in errors if error.kind == "false_positive"]
    false_negatives = [error.pair for error in errors if error.kind == "false_negative"]
    return [
        shelf.section("False positives", "different people, called the same", false_positives),
        shelf.section("False negatives", "one person, called different", false_negatives),
    ]


def _change_sections(shelf: _Shelf, changed: Comparison) -> list[_Section]:
    return [
        shelf.section("New errors", "right before, wrong now", changed.broken.tolist()),
        shelf.section("Fixed errors", "wrong before, right now", changed.fixed.tolist()),
    ]


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("shared.evaluation", "."),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html")
