"""Plots of the report, as self-contained SVG text."""

import io
from contextlib import AbstractContextManager

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from shared.evaluation.measure import Measurement
from shared.evaluation.metrics import roc
from shared.evaluation.results import RejectCurve
from shared.evaluation.scores import Scores

_GENUINE, _IMPOSTOR, _OLD = "#1a7f5a", "#b5403a", "#8a8f98"
_INK = "#1d2433"


def similarity_histograms(scores: Scores, threshold: float) -> str:
    """Plot histograms of the genuine and impostor similarities, with the threshold."""
    figure, axes = _canvas()
    bins = np.linspace(float(scores.similarity.min()), float(scores.similarity.max()), 50).tolist()
    for label, mask, colour in (
        ("impostor", ~scores.genuine, _IMPOSTOR),
        ("genuine", scores.genuine, _GENUINE),
    ):
        axes.hist(scores.similarity[mask], bins=bins, alpha=0.55, color=colour, label=label)
    label = f"threshold {threshold:.3f}"
    axes.axvline(threshold, color=_INK, linewidth=1, linestyle="--", label=label)
    axes.set(xlabel="cosine similarity", ylabel="pairs")
    return _svg(figure, axes)


def roc_curve(measured: Measurement, old: Measurement | None) -> str:
    """Plot TAR against FAR on a logarithmic axis; the curve of an old model is grey."""
    figure, axes = _canvas()
    lowest = 1 / measured.scores.impostor_pairs
    versions = [(measured, _GENUINE)] if old is None else [(old, _OLD), (measured, _GENUINE)]
    for version, colour in versions:
        curve = roc(version.scores)
        far = np.maximum(curve.far, lowest)
        axes.step(far, curve.tar, where="post", color=colour, label=version.name)
    axes.set(xlabel="FAR", ylabel="TAR", xscale="log", xlim=(lowest, 1), ylim=(0, 1.01))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return _svg(figure, axes)


def error_versus_reject(curve: RejectCurve) -> str:
    """Plot FNMR against the share of genuine pairs that are rejected by magnitude."""
    figure, axes = _canvas()
    label = f"FNMR at FMR {100 * curve.fmr:g} %"
    axes.plot(curve.rejected, curve.fnmr, color=_GENUINE, marker=".", label=label)
    axes.set(xlabel="pairs rejected, lowest magnitude first", ylabel="FNMR")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return _svg(figure, axes)


def _style() -> AbstractContextManager[None]:
    # Keep text as text: letters as outlines would make up most of the file.
    return mpl.rc_context({"svg.fonttype": "none", "font.size": 9.5, "axes.edgecolor": "#98a1b0"})


def _canvas() -> tuple[Figure, Axes]:
    with _style():
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _svg(figure: Figure, axes: Axes) -> str:
    axes.legend(frameon=False, fontsize=8.5)
    text = io.StringIO()
    # Without metadata, which contains URLs of other sites.
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _style():
        figure.savefig(text, format="svg", metadata=no_metadata)
    # Inside HTML only the svg element is allowed, without the XML header.
    return text.getvalue()[text.getvalue().index("<svg") :]
