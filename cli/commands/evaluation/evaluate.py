"""``magface evaluate``: verification metrics of a model on labelled pairs."""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cli.clients import DirOption
from cli.commands.options import ChannelOrderChoice, EpsOption
from cli.images import AlignmentChoice, AlignmentOption, report_left_out
from cli.output import JsonOption, counting_progress, emit
from shared.errors import InvalidInput

if TYPE_CHECKING:
    from cli.commands.evaluation.model_source import EvaluatedModel
    from shared.datasets.pairs import PairSet
    from shared.evaluation.embed import CropReader, UsableSet
    from shared.evaluation.measure import Measurement
    from shared.evaluation.results import Changes


def evaluate(
    *,
    pairs: Annotated[
        Path,
        typer.Option(
            exists=True,
            show_default=False,
            help="Pairs as .json, LFW's .txt or InsightFace's .bin; or a folder per identity, "
            "with the folders in it, also by links; hidden ones do not count.",
        ),
    ],
    model: Annotated[str, typer.Option(help="Version to measure; default: serving.")] = "",
    checkpoint: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Measure this file instead of a version."),
    ] = None,
    against: Annotated[str, typer.Option(help="Version or checkpoint file to compare with.")] = "",
    channel_order: Annotated[
        ChannelOrderChoice, typer.Option(help="Channel order of checkpoint files.")
    ] = ChannelOrderChoice.BGR,
    eps: EpsOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Default: that of the operating point in force; 0.4 for a file."),
    ] = None,
    sample: Annotated[int, typer.Option(min=2, help="Pairs to draw from a folder.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the sample and of the bootstrap.")] = 0,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Measure also with mirrored images added.")
    ] = False,
    groups: Annotated[
        bool,
        typer.Option("--groups", help="Measure by group of people; groups.csv in the folder."),
    ] = False,
    groups_file: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Measure by group of people; CSV with the columns identity and group.",
        ),
    ] = None,
    alignment: AlignmentOption = AlignmentChoice.AUTO,
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder for report.html, metrics and errors."),
    ] = None,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model version or a checkpoint on labelled pairs of faces.

    Images that cannot be used are named and left out with their pairs.
    """
    from cli.commands.evaluation.groups import read_people_groups
    from cli.commands.evaluation.model_source import open_checkpoint, open_named, open_version
    from cli.commands.evaluation.pair_crops import pair_crops
    from cli.commands.evaluation.tables import readable
    from shared.evaluation.compare import compare

    if model and checkpoint:
        raise InvalidInput("--checkpoint", "give either a version or a file, not both")
    given, unusable, people = _read_pairs(pairs, sample, seed)
    by_group = groups or groups_file is not None
    group_of = read_people_groups(pairs, groups_file, people) if by_group else {}
    if checkpoint:
        opened = open_checkpoint(checkpoint, channel_order.value, eps)
    else:
        opened = open_version(model, folder)
    old: Measurement | None = None
    changed: Changes | None = None
    measure = partial(_measure, threshold=threshold, mirror=mirror, seed=seed, groups=group_of)
    measured, usable = measure(opened, given, pair_crops(given, alignment))
    pair_set = usable.pair_set
    crops = pair_crops(pair_set, alignment)
    left_out = report_left_out((*unusable, *usable.unusable))
    if against:
        other = open_named(against, channel_order.value, eps, folder)
        old, _ = measure(other, pair_set, crops)
        changed = compare(old, measured, pair_set)
    result = {
        **_result(measured, old, changed),
        "left_out": left_out,
        "pairs_left_out": len(given) - len(pair_set),
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n")
        _write_errors(out, pair_set, crops, measured, old)
    emit(as_json, result, readable(measured, old, changed.comparison if changed else None))


class _GivenPairs(NamedTuple):
    """The pairs to measure on.

    Attributes:
        unusable: Errors of files that no pair can be made of.
        people: All people that the pairs come from; empty if they are not known.
    """

    pair_set: "PairSet"
    unusable: Sequence[InvalidInput]
    people: Collection[str]


def _read_pairs(path: Path, sample: int, seed: int) -> _GivenPairs:
    from shared.datasets.folder import read_identities
    from shared.datasets.pair_files import read_pair_file
    from shared.datasets.sampling import SampleSize, sample_pairs

    if path.is_dir():
        found = read_identities(path)
        chosen = sample_pairs(found.images, SampleSize(sample), seed)
        return _GivenPairs(chosen, found.unusable, found.images)
    pair_set = read_pair_file(path)
    return _GivenPairs(pair_set, (), set(pair_set.identities or ()))


def _measure(
    opened: "EvaluatedModel",
    pair_set: "PairSet",
    crops: "CropReader",
    *,
    threshold: float | None,
    mirror: bool,
    seed: int,
    groups: Mapping[str, str],
) -> "tuple[Measurement, UsableSet]":
    from cli.commands.evaluation.groups import with_groups
    from shared.evaluation.embed import embed_usable
    from shared.evaluation.measure import measure

    with counting_progress() as progress:
        task = progress.add_task(f"embedding with {opened.name}", total=len(pair_set.images))
        usable = embed_usable(
            opened.session,
            pair_set,
            crops,
            mirror=mirror,
            progress=lambda count: progress.advance(task, count),
        )
        progress.update(task, description="measuring", total=None)
        at = opened.threshold if threshold is None else threshold
        measured = measure(opened.name, usable.embedded, usable.pair_set, at, seed=seed)
        if groups:
            measured = with_groups(measured, usable.pair_set, groups, seed)
    return measured, usable


def _result(
    measured: "Measurement", old: "Measurement | None", changed: "Changes | None"
) -> dict[str, Any]:
    result = _figures(measured)
    if old is not None and changed is not None:
        result["against"] = {
            **_figures(old),
            **changed.comparison.model_dump(),
            **changed.model_dump(include={"fixed", "broken"}),
        }
    return result


def _figures(measured: "Measurement") -> dict[str, Any]:
    figures = {"model": measured.name, **measured.evaluation.model_dump()}
    return (
        figures if measured.groups is None else {**figures, "groups": measured.groups.model_dump()}
    )


def _write_errors(
    out: Path,
    pair_set: "PairSet",
    crops: "CropReader",
    measured: "Measurement",
    old: "Measurement | None",
) -> None:
    from shared.evaluation.report.page import write_report
    from shared.evaluation.report.wrong_decisions import write_error_folders

    write_error_folders(out, pair_set, measured, crops)
    write_report(out / "report.html", pair_set, measured, crops, old)
