"""Tables of an evaluation."""

from rich.console import Group, RenderableType

from cli.output import facts, table
from shared.evaluation.measure import Measurement
from shared.evaluation.report.formatting import (
    change_lines,
    group_lines,
    headlines,
    inequity_lines,
    percent,
    tar_lines,
)
from shared.evaluation.results import Comparison, Evaluation, GroupComparison


def readable(
    measured: Measurement, old: Measurement | None, changed: Comparison | None
) -> RenderableType:
    """Makes the tables of an evaluation and of its comparison with another."""
    parts = [facts({"model": measured.name, **_shown(measured.evaluation)})]
    if measured.groups:
        parts += _group_tables(measured.name, measured.groups)
    if old is None or changed is None:
        return Group(*parts)
    rows = [
        [line.label, line.old, line.new, line.difference, line.interval]
        for line in change_lines(old.evaluation, measured.evaluation, changed)
    ]
    columns = ("figure", "old", "new", "difference", "95 % interval")
    test = changed.mcnemar
    verdict = f"{test.fixed}, {test.broken}; McNemar's exact test: p = {test.p_value:.2g}"
    parts += [
        table(*columns, rows=rows, title=f"against {old.name}"),
        facts({"decisions fixed, broken": verdict}),
    ]
    if old.groups:
        parts += _group_tables(old.name, old.groups)
    return Group(*parts)


def _group_tables(name: str, groups: GroupComparison) -> list[RenderableType]:
    rows = [
        [line.group, line.rate, line.value, line.interval, line.evidence]
        for line in group_lines(groups)
    ]
    columns = ("group", "rate", "value", "95 % interval", "measured on")
    ratios = {line.label: f"{line.value}  ({line.note})" for line in inequity_lines(groups)}
    title = f"{name} by group, at threshold {groups.threshold:.3f}"
    return [table(*columns, rows=rows, title=title), facts(ratios)]


def _shown(result: Evaluation) -> dict[str, object]:
    shown: dict[str, object] = {
        "pairs": f"{result.genuine_pairs} genuine, {result.impostor_pairs} impostor, "
        f"of {result.images} images",
    }
    for line in (*headlines(result), *tar_lines(result)):
        shown[line.label] = f"{line.value}  ({line.note})" if line.note else line.value
    shown["precision, recall"] = f"{percent(result.precision)}, {percent(result.recall)}"
    shown["tp, tn, fp, fn"] = f"{result.tp}, {result.tn}, {result.fp}, {result.fn}"
    if result.folded:
        shown[f"accuracy over {result.folded.folds} folds"] = (
            f"{percent(result.folded.mean)} ± {percent(result.folded.std)}"
        )
    if result.mirrored:
        shown["best accuracy with mirror images"] = percent(result.mirrored.best_accuracy)
    shown["images a second"] = f"{result.images_per_second:.1f}"
    return shown
