"""``magface demo``: runs the loop on an embedded stack and shows the result."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cli.output import JsonOption, emit, in_words, messages, table


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
    report("starting Postgres, an S3 server and the services")
    with _running_stack(out / "stack", report) as stack:
        if checkpoint is not None:
            serve_checkpoint(stack, checkpoint)
        set_operating_point(stack, target_fmr)
        summary = {"target_fmr": target_fmr, **run_loop(stack, people, report)}
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    emit(as_json, summary, _readable(summary))
    report(f"wrote the summary to {out / 'summary.json'}")
    if not _succeeded(summary, must_learn=faces is None):
        raise typer.Exit(1)


@contextmanager
def _running_stack(folder: Path, report: Callable[[str], None]) -> Iterator[Path]:
    """Runs a stack and a thread that restarts its processes; yields its folder."""
    from deploy.local.stack import Stack

    stop = threading.Event()
    with Stack(folder, report=report, stop=stop) as stack:
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


def _readable(summary: dict[str, Any]) -> RenderableType:
    before, after = summary["before"], summary["after"]
    fixed, swap = summary["at_0_4"], summary["swap"]
    rows = [
        [f"FNMR at FMR {summary['target_fmr']:g}", *_rates("served_fnmr", before, after)],
        ["FMR measured there", *_rates("served_fmr", before, after)],
        ["threshold served", _show(before["served_threshold"]), _show(after["served_threshold"])],
        *(
            [name, _show(before[name]), _show(after[name])]
            for name in before
            if not name.startswith("served_")
        ),
    ]
    rows.append(["accuracy at 0.4", _show(fixed["before"]), _show(fixed["after"])])
    title = (
        f"{summary['test_pairs']} pairs of unseen people, "
        f"after {summary['feedback_pairs']} corrections"
    )
    caption = (
        f"{swap['requests']} Verify calls during the swap: {swap['failed']} failed, "
        f"{swap['mixed_versions']} mixed versions; {summary['seconds']:.0f} s in total, of which "
        f"{_times(summary['correction'])}"
    )
    shown = Group(table("", "before", "after", rows=rows, title=title), Text(caption))
    if summary["gate"]["passed"]:
        return shown
    # There is no second version to compare: both columns are of the version that serves on.
    return Group(Text(summary["verdict"], style="bold"), shown)


def _rates(name: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [f"{figures[name]:.2%}" for figures in (before, after)]


def _times(correction: dict[str, Any]) -> str:
    stages = [f"{in_words(stage)} {seconds:.1f}" for stage, seconds in correction["stages"].items()]
    return (
        f"{correction['seconds']:.0f} s from the request to train to the end: {', '.join(stages)}"
    )


def _show(value: float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
