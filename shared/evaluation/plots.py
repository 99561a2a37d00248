"""The plots of a report, as SVG text that needs no other file."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shared.evaluation.evaluation import RejectCurve
from shared.evaluation.metrics import roc
from shared.evaluation.scores import Scores

_GENUINE, _IMPOSTOR, _OLD = "#1a7f5a", "#b5403a", "#8a8f98"


def similarity_histograms(scores: Scores, threshold: float) -> str:
    """Similarities of genuine and of impostor pairs, with the threshold."""
    figure, axes = _canvas()
    bins = np.linspace(float(scores.similarity.min()), float(scores.similarity.max()), 60).tolist()
    for label, mask, colour in (
        ("impostor", ~scores.genuine, _IMPOSTOR),
        ("genuine", scores.genuine, _GENUINE),
    ):
        axes.hist(scores.similarity[mask], bins=bins, alpha=0.6, color=colour, label=label)
    axes.axvline(threshold, color="#222", linewidth=1, linestyle="--", label="threshold")
    axes.set(xlabel="cosine similarity", ylabel="pairs")
    return _svg(figure, axes)


def roc_curve(scores: Scores, old: Scores | None) -> str:
    """TAR against FAR on a logarithmic axis; the old version's in grey where there is one."""
    figure, axes = _canvas()
    lowest = 1 / max(scores.impostor_pairs, 1)
    versions = [("this version", scores, _GENUINE)]
    if old is not None:
        versions.insert(0, ("the other version", old, _OLD))
    for label, of, colour in versions:
        curve = roc(of)
        axes.step(np.maximum(curve.far, lowest), curve.tar, where="post", color=colour, label=label)
    axes.set(xlabel="FAR", ylabel="TAR", xscale="log", xlim=(lowest, 1), ylim=(0, 1.01))
    return _svg(figure, axes)


def error_versus_reject(curve: RejectCurve) -> str:
    """FNMR against the share of genuine pairs rejected for their magnitude."""
    figure, axes = _canvas()
    label = f"FNMR at FMR {curve.fmr:g}"
    axes.plot(curve.rejected, curve.fnmr, color=_GENUINE, marker=".", label=label)
    axes.set(xlabel="share of pairs rejected, lowest magnitude first", ylabel="FNMR")
    axes.set_ylim(bottom=0)
    return _svg(figure, axes)


def _canvas() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _svg(figure: Figure, axes: Axes) -> str:
    axes.legend(frameon=False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    # Inside a page only the element itself may stand.
    return text.getvalue()[text.getvalue().index("<svg") :]
