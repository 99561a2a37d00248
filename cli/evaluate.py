"""``magface evaluate``: the field's figures of a model on labelled pairs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connection import DirOption
from cli.models import ChannelOrder
from cli.output import JsonOption, counting_progress, emit, facts
from shared.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cli.evaluated_models import EvaluatedModel
    from shared.datasets.pairs import PairSet
    from shared.evaluation.embed_set import EmbeddedSet
    from shared.evaluation.evaluation import Evaluation


def evaluate(
    *,
    pairs: Annotated[
        Path,
        typer.Option(
            exists=True,
            show_default=False,
            help="Pairs as .json, LFW's .txt or InsightFace's .bin; or a folder per identity.",
        ),
    ],
    model: Annotated[str, typer.Option(help="Version to measure; the serving one.")] = "",
    checkpoint: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Measure this file instead of a version."),
    ] = None,
    channel_order: Annotated[
        ChannelOrder, typer.Option(help="Of the --checkpoint.")
    ] = ChannelOrder.BGR,
    threshold: Annotated[
        float | None, typer.Option(help="The version's own; 0.4 for a --checkpoint.")
    ] = None,
    sample: Annotated[int, typer.Option(min=2, help="Pairs to draw from a folder.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the draw and the bootstrap.")] = 0,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Also with the mirror image's features added.")
    ] = False,
    out: Annotated[Path | None, typer.Option(file_okay=False, help="Gets the results.")] = None,
    folder: DirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model version or a checkpoint on labelled pairs of faces."""
    from cli.evaluated_models import open_checkpoint, open_version
    from shared.evaluation.evaluation import evaluate as measure

    if model and checkpoint:
        raise InvalidInput("--checkpoint", "either a version or a file is measured, not both")
    pair_set = _read_pairs(pairs, sample, seed)
    if checkpoint:
        measured = open_checkpoint(checkpoint, channel_order.value)
    else:
        measured = open_version(model, folder)
    embedded = _embed(measured, pair_set, mirror)
    at = measured.threshold if threshold is None else threshold
    result = measure(embedded, pair_set, at, seed=seed)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(result.model_dump_json(indent=2) + "\n")
    emit(as_json, {"model": measured.name, **result.model_dump()}, _readable(result))


def _read_pairs(path: Path, sample: int, seed: int) -> "PairSet":
    from shared.datasets.folder import read_identities
    from shared.datasets.pair_files import read_pair_file
    from shared.datasets.sampling import SampleSize, sample_pairs

    if path.is_dir():
        return sample_pairs(read_identities(path), SampleSize(sample), seed)
    return read_pair_file(path)


def _embed(measured: "EvaluatedModel", pair_set: "PairSet", mirror: bool) -> "EmbeddedSet":
    from shared.evaluation.embed_set import embed_set
    from shared.model.faces import FaceReader
    from shared.settings import ImageLimits

    with counting_progress() as progress:
        task = progress.add_task("embedding", total=len(pair_set.images))
        return embed_set(
            measured.session,
            pair_set,
            FaceReader(ImageLimits()),
            mirror=mirror,
            progress=lambda count: progress.advance(task, count),
        )


def _readable(result: "Evaluation") -> "RenderableType":
    def with_interval(name: str, value: float) -> str:
        interval = result.intervals.get(name)
        return f"{value:.4f}" + (
            f"  ({interval.low:.4f} to {interval.high:.4f})" if interval else ""
        )

    shown: dict[str, object] = {
        "pairs": f"{result.genuine_pairs} genuine, {result.impostor_pairs} impostor, "
        f"of {result.images} images",
        f"accuracy at {result.threshold:.3f}": with_interval("accuracy", result.accuracy),
        "precision, recall": f"{result.precision:.4f}, {result.recall:.4f}",
        "tp, tn, fp, fn": f"{result.tp}, {result.tn}, {result.fp}, {result.fn}",
        f"best accuracy, at {result.best_threshold:.3f}": with_interval(
            "best_accuracy", result.best_accuracy
        ),
        "AUC": with_interval("auc", result.auc),
        "EER": with_interval("eer", result.eer),
    }
    for far, tar in result.tar_at_far.items():
        shown[f"TAR at FAR {far}"] = (
            "too few impostor pairs" if tar is None else with_interval(f"tar_at_far.{far}", tar)
        )
    if result.folded:
        shown[f"accuracy over {result.folded.folds} folds"] = (
            f"{result.folded.mean:.4f} ± {result.folded.std:.4f}"
        )
    if result.mirrored:
        shown["best accuracy with mirror images"] = f"{result.mirrored.best_accuracy:.4f}"
    shown["images a second"] = f"{result.images_per_second:.1f}"
    return facts(shown)
