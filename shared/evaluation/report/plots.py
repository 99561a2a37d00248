"""Plots of the report, as self-contained SVG text."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from shared.evaluation.measure import Measurement
from shared.evaluation.metrics import roc
from shared.evaluation.results import GroupComparison, GroupRate, GroupRates, RejectCurve
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
    return _with_legend(figure, axes)


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
    return _with_legend(figure, axes)


def error_versus_reject(curve: RejectCurve) -> str:
    """Plot FNMR against the share of genuine pairs that are rejected by magnitude."""
    figure, axes = _canvas()
    label = f"FNMR at FMR {100 * curve.fmr:g} %"
    axes.plot(curve.rejected, curve.fnmr, color=_GENUINE, marker=".", label=label)
    axes.set(xlabel="pairs rejected, lowest magnitude first", ylabel="FNMR")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return _with_legend(figure, axes)


def group_rates(groups: GroupComparison, old: GroupComparison | None) -> list[str]:
    """Plot FNMR and FMR of each group with their intervals; those of an old model are grey.

    Groups with too few people or pairs have an empty mark.
    """
    return [
        _group_plot(rate, colour, name, groups, old)
        for name, colour, rate in (
            ("FNMR", _GENUINE, lambda group: group.fnmr),
            ("FMR", _IMPOSTOR, lambda group: group.fmr),
        )
    ]


def _group_plot(
    rate: Callable[[GroupRates], GroupRate],
    colour: str,
    name: str,
    groups: GroupComparison,
    old: GroupComparison | None,
) -> str:
    names = [group.name for group in groups.groups]
    figure, axes = _canvas(height=1.3 + 0.4 * len(names))
    versions = [(groups, colour, 0.0)]
    if old is not None:
        versions = [(old, _OLD, -0.12), (groups, colour, 0.12)]
    for comparison, shade, offset in versions:
        for place, group in enumerate(comparison.groups):
            measured = rate(group)
            if measured.rate is None:
                continue
            value, low, high = measured.rate.value, measured.rate.low, measured.rate.high
            face = shade if measured.enough else "white"
            interval = [[value - low], [high - value]]
            axes.errorbar(
                *([value], [place + offset]),
                xerr=interval,
                fmt="o",
                color=shade,
                markerfacecolor=face,
                capsize=2.5,
            )
    labels = [f"{one[:23]}…" if len(one) > 24 else one for one in names]
    # A name with two dollars is not a formula.
    axes.set_yticks(range(len(names)), labels, parse_math=False)
    axes.set(xlabel=name, ylim=(len(names) - 0.5, -0.5))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return _svg(figure)


def _style() -> AbstractContextManager[None]:
    # Keep text as text: letters as outlines would make up most of the file.
    return mpl.rc_context({"svg.fonttype": "none", "font.size": 9.5, "axes.edgecolor": "#98a1b0"})


def _canvas(height: float = 3.2) -> tuple[Figure, Axes]:
    with _style():
        figure = Figure(figsize=(4.6, height), layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _with_legend(figure: Figure, axes: Axes) -> str:
    axes.legend(frameon=False, fontsize=8.5)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    # Without metadata, which contains URLs of other sites.
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _style():
        figure.savefig(text, format="svg", metadata=no_metadata)
    # Inside HTML only the svg element is allowed, without the XML header.
    return text.getvalue()[text.getvalue().index("<svg") :]
