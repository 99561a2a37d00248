"""Every part of the system that can run on a GPU (`make bench-gpu`), in less than 8 minutes.

The network is an iResNet-100 with made-up weights. Without a GPU, and with `DRY_RUN=1`, the same
steps run on the CPU with a narrow network, which tests the benchmark; the figures then mean
nothing. A part that fails does not stop the others; its error is in the result, and the benchmark
ends with an error.
"""

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from shared.model.manifest import MANIFEST_FILE
from shared.model.sessions.base import Device, Engine
from tests.benchmarks.full_size.benchmark import JOB_PEOPLE, local_device_name, require_room
from tests.benchmarks.full_size.child import run_in_child
from tests.benchmarks.full_size.feedback import PEOPLE
from tests.benchmarks.full_size.networks import NARROW, OFFICIAL, Network
from tests.benchmarks.full_size.steps import FORMATS, TrainingFormat
from tests.benchmarks.full_size.tasks import Figures, Runner, run_task
from tests.benchmarks.progress import log
from tests.benchmarks.serving.plan import Plan, machine
from tests.benchmarks.serving.sections.swap import measure_swaps
from tests.benchmarks.serving.servers.versions import BenchVersions

LIMIT_S = 480.0
# No part starts later than this: the longest takes about a minute.
_LAST_START_S = 400.0


@dataclass(frozen=True)
class GpuPlan:
    """What is measured, and for how long.

    Attributes:
        run: Runs the tasks that need much memory.
        network: The network.
        devices: Devices of onnxruntime.
        engines: Engine and device of each session.
        formats: Formats of training steps.
        people: People of the feedback of these steps.
        steps: Steps in each format.
        batches: Images of one run of a session.
        seconds: Duration of each measurement of a session.
        swaps: Durations of the swaps.
    """

    run: Runner
    network: Network
    devices: tuple[Device, ...]
    engines: tuple[tuple[Engine, Device], ...]
    formats: tuple[TrainingFormat, ...]
    people: int
    steps: int
    batches: tuple[int, ...]
    seconds: float
    swaps: Plan


_ON_GPU = GpuPlan(
    run=run_in_child,
    network=OFFICIAL[-1],
    devices=("cuda", "cuda-fp16"),
    engines=(("onnxruntime", "cuda"), ("onnxruntime", "cuda-fp16"), ("torch", "cuda")),
    formats=FORMATS,
    people=PEOPLE,
    steps=12,
    batches=(1, 2, 8, 32, 128),
    seconds=1.5,
    swaps=Plan(rounds=1, slow_s=4.0, warm_s=1.0, swaps=2),
)
_DRY = GpuPlan(
    run=run_task,
    network=NARROW,
    devices=("cpu",),
    engines=(("onnxruntime", "cpu"), ("torch", "cpu")),
    formats=FORMATS[:1],
    people=JOB_PEOPLE,
    steps=1,
    batches=(1, 2),
    seconds=0.0,
    swaps=Plan(rounds=1, slow_s=1.0, warm_s=0.2, swaps=1, quick=True),
)


def run(out: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Measure all parts.

    Args:
        out: Folder for the version and the faces, which later runs reuse.
        dry_run: Whether to run on the CPU although there is a GPU.

    Returns:
        The figures of each part by its name, the names of those that failed or for which there was
        no time, and the seconds of the run.

    Raises:
        PreconditionFailed: There is not enough memory or disk.
    """
    start = time.monotonic()
    dry_run = dry_run or not torch.cuda.is_available()
    out.mkdir(parents=True, exist_ok=True)
    if dry_run:
        log("dry run on the CPU: the figures mean nothing")
    else:
        require_room(out)
    sections: dict[str, Figures] = {}
    for name, section in _sections(_DRY if dry_run else _ON_GPU, out).items():
        elapsed = time.monotonic() - start
        if elapsed > _LAST_START_S:
            sections[name] = {"error": f"no time: {elapsed:.0f} s had passed"}
            continue
        log(f"== {name}")
        sections[name] = _attempt(section) | {"seconds": time.monotonic() - start - elapsed}
    seconds = time.monotonic() - start
    table = make_table(sections)
    sys.stdout.write(table)
    return {
        "dry_run": dry_run,
        "gpu": None if dry_run else local_device_name(),
        "machine": machine(),
        "sections": sections,
        "failed": [name for name, figures in sections.items() if "error" in figures],
        "seconds": {"value": seconds, "bar": f"below {LIMIT_S:g}", "held": seconds < LIMIT_S},
        "table": table,
    }


def _sections(plan: GpuPlan, out: Path) -> dict[str, Callable[[], Figures]]:
    version = out / "full-size-versions" / plan.network.name
    faces = {"version": str(version), "faces": str(out / f"full-size-faces-{plan.people}.npy")}
    few = {"version": str(version), "faces": str(out / f"full-size-faces-{JOB_PEOPLE}.npy")}
    versions = BenchVersions(out / "gpu-versions", quick=plan.swaps.quick)
    return {
        "version": partial(_version, plan, version),
        **{
            f"training, {kind}": partial(
                plan.run,
                "steps",
                **faces,
                people=plan.people,
                kind=asdict(kind),
                steps=plan.steps,
            )
            for kind in plan.formats
        },
        **{
            f"serving, {engine}, {device}": partial(
                plan.run,
                "serve",
                version=str(version),
                engine=engine,
                device=device,
                batches=plan.batches,
                seconds=plan.seconds,
            )
            for engine, device in plan.engines
        },
        "binding": partial(
            plan.run,
            "bind",
            version=str(version),
            device=plan.devices[0],
            batch=plan.batches[-1],
            seconds=plan.seconds,
        ),
        **{
            f"swap, {device}": partial(_swap, plan, versions, version, device)
            for device in plan.devices
        },
        "job": partial(plan.run, "job", **few, people=JOB_PEOPLE, epochs=1),
    }


def _version(plan: GpuPlan, folder: Path) -> Figures:
    if (folder / MANIFEST_FILE).exists():
        return {"reused": True}
    return plan.run("export", version=str(folder), **asdict(plan.network))


def _swap(plan: GpuPlan, versions: BenchVersions, version: Path, device: Device) -> Figures:
    with TemporaryDirectory(prefix="gpu-") as folder:
        figures = measure_swaps(plan.swaps, Path(folder), versions, version, device)
    wrong = {name: figures[name] for name in ("failed", "mixed", "wrong") if figures[name]}
    return figures | ({"error": f"answers of a swap: {wrong}"} if wrong else {})


def _attempt(section: Callable[[], Figures]) -> dict[str, Any]:
    try:
        return dict(section())
    except Exception as error:
        log(traceback.format_exc())
        return {"error": f"{type(error).__name__}: {error}"}


def make_table(sections: Mapping[str, Figures]) -> str:
    """Make a Markdown table with the main figure of each part."""
    rows = [("part", "measured"), ("---", "---")]
    rows += [(name, _main_figure(figures)) for name, figures in sections.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _main_figure(figures: Figures) -> str:
    match figures:
        case {"error": error}:
            return f"failed: {str(error).splitlines()[0]}"
        case {"seconds_a_step": step, "gpu_peak_bytes": memory}:
            used = "" if memory is None else f", {memory / 1e9:.1f} GB of the GPU"
            return f"{step:.3f} s a step{used}"
        case {"images_per_second": speeds}:
            return f"images/s: {_numbers(speeds)}"
        case {"swaps": swaps, "answers": answers, "seconds_a_swap": seconds}:
            return f"{swaps} swaps, {seconds:.1f} s each; {answers} answers, all right"
        case {"stages": stages}:
            return f"s: {_numbers(stages)}"
    return f"{figures['seconds']:.1f} s"


def _numbers(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} ({_numbers(value)})" if isinstance(value, Mapping) else f"{name}: {value:.1f}"
        for name, value in values.items()
    )
