"""``magface evaluate``: verification metrics of a model on labelled pairs."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
        float | None, typer.Option(help="Default: the version's own; 0.4 for a file.")
    ] = None,
    sample: Annotated[int, typer.Option(min=2, help="Pairs to draw from a folder.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the sample and of the bootstrap.")] = 0,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Measure also with mirrored images added.")
    ] = False,
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
    from cli.commands.evaluation.model_source import open_checkpoint, open_named, open_version
    from cli.commands.evaluation.pair_crops import pair_crops
    from cli.commands.evaluation.tables import readable
    from shared.evaluation.compare import compare

    if model and checkpoint:
        raise InvalidInput("--checkpoint", "give either a version or a file, not both")
    given, unusable = _read_pairs(pairs, sample, seed)
    if checkpoint:
        opened = open_checkpoint(checkpoint, channel_order.value, eps)
    else:
        opened = open_version(model, folder)
    old: Measurement | None = None
    changed: Changes | None = None
    measure = partial(_measure, threshold=threshold, mirror=mirror, seed=seed)
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


def _read_pairs(path: Path, sample: int, seed: int) -> "tuple[PairSet, Sequence[InvalidInput]]":
    """Read the pairs, and the errors of files that no pair can be made of."""
    from shared.datasets.folder import read_identities
    from shared.datasets.pair_files import read_pair_file
    from shared.datasets.sampling import SampleSize, sample_pairs

    if path.is_dir():
        found = read_identities(path)
        return sample_pairs(found.images, SampleSize(sample), seed), found.unusable
    return read_pair_file(path), ()


def _measure(
    opened: "EvaluatedModel",
    pair_set: "PairSet",
    crops: "CropReader",
    *,
    threshold: float | None,
    mirror: bool,
    seed: int,
) -> "tuple[Measurement, UsableSet]":
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
    return measured, usable


def _result(
    measured: "Measurement", old: "Measurement | None", changed: "Changes | None"
) -> dict[str, Any]:
    result: dict[str, Any] = {"model": measured.name, **measured.evaluation.model_dump()}
    if old is not None and changed is not None:
        result["against"] = {
            "model": old.name,
            **old.evaluation.model_dump(),
            **changed.comparison.model_dump(),
            **changed.model_dump(include={"fixed", "broken"}),
        }
    return result


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
