"""``magface demo``: runs the loop on an embedded stack and shows the result."""

import json
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cli.commands.job_progress import gate_table
from cli.output import JsonOption, emit, in_words, messages, table

_COLUMNS = ("before", "after")


def demo(
    *,
    faces: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Aligned 112x112 faces, a folder per identity, with the folders in it, also by "
            "links; hidden ones do not count. Default: rendered people.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="MagFace checkpoint; default: bundled."),
    ] = None,
    target_fmr: Annotated[
        float,
        typer.Option(min=1e-6, max=0.1, help="False-match rate that the served versions keep."),
    ] = 0.01,
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for summary.json and the data.")
    ] = Path("out/demo"),
    seed: Annotated[int, typer.Option(help="Seed of people and pairs.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run the whole loop on an embedded stack and show what the model learned."""
    from cli.demo.loop import run_loop, serve_checkpoint, set_operating_point
    from cli.demo.people import people_of_folder, rendered_people

    def report(line: str) -> None:
        messages.print(f"==> {line}", markup=False, highlight=False)

    # Each run starts without data: an already trained model would learn less.
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    report("choosing people" if faces else "rendering people")
    people = people_of_folder(faces, seed) if faces else rendered_people(out / "people", seed)
    reference = people.write_reference(out / "reference")
    if reference is not None:
        report(f"{len(people.reference)} people are the reference faces of the trainer")
    report("starting Postgres, an S3 server and the services")
    with _running_stack(out / "stack", reference, report) as stack:
        if checkpoint is not None:
            serve_checkpoint(stack, checkpoint)
        set_operating_point(stack, target_fmr)
        summary = {"target_fmr": target_fmr, **run_loop(stack, people, report)}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    emit(as_json, summary, readable(summary))
    report(f"wrote the summary to {out / 'summary.json'}")
    if not _succeeded(summary, must_learn=faces is None):
        raise typer.Exit(1)


@contextmanager
def _running_stack(
    folder: Path, reference: Path | None, report: Callable[[str], None]
) -> Iterator[Path]:
    """Runs a stack and a thread that restarts its processes; yields its folder."""
    from deploy.local.stack import Stack

    stop = threading.Event()
    with Stack(folder, report=report, stop=stop, reference_faces=reference) as stack:
        watcher = threading.Thread(target=stack.watch, name="stack-watch")
        watcher.start()
        try:
            yield folder
        finally:
            stop.set()
            watcher.join()


def _succeeded(summary: dict[str, Any], must_learn: bool) -> bool:
    swap = summary["swap"]
    learned: bool = summary["after"]["accuracy"] > summary["before"]["accuracy"]
    # Other faces may leave nothing to learn; the gate then refuses the new version.
    refused = not must_learn and not summary["gate"]["passed"]
    return (learned or refused) and not swap["failed"] and not swap["mixed_versions"]


def readable(summary: dict[str, Any]) -> RenderableType:
    """Show a summary: both versions, or the verdict first where the gate refused the new one."""
    before, after = summary["before"], summary["after"]
    columns = {"before": before, "after": after}
    swapped, swap = summary["gate"]["passed"], summary["swap"]
    title = (
        f"{summary['test_pairs']} pairs of unseen people, "
        f"after {summary['feedback_pairs']} corrections"
    )
    if not swapped:
        # There is no second version to compare: both columns are of the version that serves on.
        columns = {"serving": before}
        version = summary["model_version"]["before"]
        title = f"{version} goes on serving; on {summary['test_pairs']} pairs of unseen people"
    figures = columns.values()
    rows = [
        [f"FNMR at FMR {summary['target_fmr']:g}", *_rates("served_fnmr", figures)],
        ["FMR measured there", *_rates("served_fmr", figures)],
        ["threshold served", *(_show(one["served_threshold"]) for one in figures)],
        *(
            [name, *(_show(one[name]) for one in figures)]
            for name in before
            if not name.startswith("served_")
        ),
        ["accuracy at 0.4", *(_show(summary["at_0_4"][name]) for name in _COLUMNS[: len(columns)])],
    ]
    caption = (
        f"{swap['requests']} Verify calls during the {'swap' if swapped else 'training'}: "
        f"{swap['failed']} failed, {swap['mixed_versions']} mixed versions; "
        f"{summary['seconds']:.0f} s in total, of which {_times(summary['correction'])}"
    )
    shown = Group(table("", *columns, rows=rows, title=title), Text(caption))
    if swapped:
        return shown
    return Group(Text(summary["verdict"], style="bold"), gate_table(summary["gate"]), shown)


def _rates(name: str, versions: Iterable[dict[str, Any]]) -> list[str]:
    return [f"{figures[name]:.2%}" for figures in versions]


def _times(correction: dict[str, Any]) -> str:
    stages = [f"{in_words(stage)} {seconds:.1f}" for stage, seconds in correction["stages"].items()]
    return (
        f"{correction['seconds']:.0f} s from the request to train to the end: {', '.join(stages)}"
    )


def _show(value: float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
