"""Training and serving of an iResNet-50 and an iResNet-100 (`make bench-full-size`).

The weights are made up, which costs as much as trained ones. They are written as a checkpoint with
the keys of the released files and read by the product's loader. Every measurement is a process of
its own, whose peak of memory counts. Finished ones are stored in ``full-size.rows.json``, so that
an interrupted run can be continued. A change of the sources invalidates them.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch

from shared.errors import PreconditionFailed
from shared.model.manifest import MANIFEST_FILE
from shared.model.sessions.base import Device
from tests.benchmarks.full_size.child import peak_bytes, run_in_child
from tests.benchmarks.full_size.feedback import PEOPLE
from tests.benchmarks.full_size.networks import NARROW, OFFICIAL, Network
from tests.benchmarks.full_size.projection import on_idle_processors, projected_stages
from tests.benchmarks.full_size.steps import FORMATS, TrainingFormat
from tests.benchmarks.full_size.tasks import Figures, Runner, run_task
from tests.benchmarks.progress import log
from tests.benchmarks.results import ResultFile, digest_files
from tests.benchmarks.serving.plan import machine

MOST_BYTES = 6e9
_DISK_BYTES = 2e9
# Enough people for the smallest feedback that a training takes.
JOB_PEOPLE = 30
_STEPS, _SECONDS = 1, 5.0
_BATCHES: Mapping[Device, tuple[int, ...]] = {
    "cpu": (1, 2, 8),
    "cuda": (1, 2, 8, 32),
    "cuda-fp16": (1, 2, 8, 32),
}
_ROOT = Path(__file__).parents[3]
_SOURCES = (
    "services/trainer/data/*.py",
    "services/trainer/training/*.py",
    "shared/model/*.py",
    "shared/model/network/*.py",
    "shared/model/sessions/*.py",
    "tests/benchmarks/full_size/*.py",
)


def run(out: Path, *, dry_run: bool = False) -> dict[str, Any]:
    """Measure what has no stored result, and print the tables.

    Args:
        out: Folder for the stored results, the faces and the versions, which later runs reuse.
        dry_run: Whether to do everything with a narrow network in this process, to test the
            benchmark; the figures then mean nothing.

    Raises:
        PreconditionFailed: There is not enough memory or disk.
    """
    out.mkdir(parents=True, exist_ok=True)
    bench = _Bench(out, dry_run=dry_run)
    networks = (NARROW,) if dry_run else OFFICIAL
    if not dry_run:
        require_room(out)
    rows = {network.name: bench.measure(network) for network in networks}
    tables = make_tables(rows)
    sys.stdout.write(tables)
    peak = max(figures["peak_bytes"] for found in rows.values() for figures in found.values())
    return {
        "dry_run": dry_run,
        "machine": machine(),
        "device": local_device_name(),
        "networks": rows,
        "most_bytes": {"value": peak, "bar": f"below {MOST_BYTES:g}", "held": peak < MOST_BYTES},
        "tables": tables,
    }


def require_room(folder: Path) -> None:
    """Check that the machine has the memory and the disk that an iResNet-100 takes.

    Raises:
        PreconditionFailed: It has not; the message says how much there is and how much it takes.
    """
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(folder).free
    if memory < MOST_BYTES:
        raise PreconditionFailed(
            f"the benchmark needs {MOST_BYTES / 1e9:g} GB of memory, and {memory / 1e9:.1f} GB "
            "are available; end other programs or use a larger machine"
        )
    if disk < _DISK_BYTES:
        raise PreconditionFailed(
            f"the benchmark needs {_DISK_BYTES / 1e9:g} GB below {folder}, and {disk / 1e9:.1f} "
            "GB are free"
        )


def local_device_name() -> str:
    """Name the device that trainings use here."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


class _Bench:
    def __init__(self, out: Path, *, dry_run: bool) -> None:
        self._dry_run = dry_run
        self._run: Runner = _run_here if dry_run else run_in_child
        self._out = out
        self._results = ResultFile(out / "full-size.rows.json")
        files = [file for pattern in _SOURCES for file in _ROOT.glob(pattern)]
        self._state = f"{'dry ' if dry_run else ''}{digest_files(files)} {local_device_name()}"

    def measure(self, network: Network) -> dict[str, Any]:
        """Measure one network: export, serving, training steps in each format, a whole job."""
        version = self._out / "full-size-versions" / network.name
        exported = f"{network.name}, export"
        if not (version / MANIFEST_FILE).exists() or self._valid(exported) is None:
            shutil.rmtree(version, ignore_errors=True)
            self._results.put(exported, {"state": ""})
        found = {
            "export": self._stored(exported, "export", version=str(version), **asdict(network))
        }
        found |= {
            f"serving, {device}": self._stored(
                f"{network.name}, serving, {device}",
                "serve",
                version=str(version),
                engine="onnxruntime",
                device=device,
                batches=_BATCHES[device],
                seconds=0.0 if self._dry_run else _SECONDS,
            )
            for device in _devices()
        }
        for kind in FORMATS:
            found[str(kind)] = self._stored(
                f"{network.name}, {kind}",
                "steps",
                version=str(version),
                faces=str(self._faces(PEOPLE)),
                people=JOB_PEOPLE if self._dry_run else PEOPLE,
                kind=asdict(kind),
                steps=1 if self._dry_run else _STEPS,
            )
        found["job"] = self._stored(
            f"{network.name}, job",
            "job",
            version=str(version),
            faces=str(self._faces(JOB_PEOPLE)),
            people=JOB_PEOPLE,
            epochs=1,
        )
        for kind in FORMATS:
            serving = found[f"serving, {_devices()[-1]}"]
            steps = found[str(kind)]
            stages = projected_stages(steps, found["export"], serving)
            idle = projected_stages(on_idle_processors(steps), found["export"], serving)
            found[str(kind)] = {**steps, "projected_s": stages, "projected_idle_s": idle}
        return found

    def _faces(self, people: int) -> Path:
        return self._out / f"full-size-faces-{JOB_PEOPLE if self._dry_run else people}.npy"

    def _stored(self, key: str, task: str, **arguments: Any) -> Figures:
        """Return the stored figures, or measure and store them."""
        figures = self._valid(key)
        if figures is None:
            log(f"== {key}")
            figures = self._run(task, **arguments)
            self._results.put(key, {"state": self._state, "figures": figures})
        return figures

    def _valid(self, key: str) -> Figures | None:
        """Return the stored figures, if they were measured with the current sources."""
        stored = self._results.get(key)
        return stored["figures"] if stored and stored["state"] == self._state else None


def _run_here(task: str, **arguments: Any) -> Figures:
    return {**run_task(task, **arguments), "peak_bytes": peak_bytes()}


def _devices() -> tuple[Device, ...]:
    return ("cpu", "cuda", "cuda-fp16") if torch.cuda.is_available() else ("cpu",)


def make_tables(networks: Mapping[str, Mapping[str, Figures]]) -> str:
    """Make the Markdown tables: training, projection and serving."""
    training = [
        [
            "network",
            "format",
            "s a step",
            "processor s a step",
            "images at once",
            "peak memory, GB",
            "GPU, GB",
            "to a live model",
            "with idle processors",
        ],
        *(
            _training_row(name, kind, found[str(kind)])
            for name, found in networks.items()
            for kind in FORMATS
        ),
    ]
    best = {name: found[str(FORMATS[0])] for name, found in networks.items()}
    stages = [
        ["network", *next(iter(best.values()))["projected_idle_s"]],
        *(
            [name, *(f"{seconds:.0f} s" for seconds in found["projected_idle_s"].values())]
            for name, found in best.items()
        ),
    ]
    jobs = [
        ["network", "images", "s", "peak memory, GB", "self-check"],
        *(
            [
                name,
                str(job["images"]),
                f"{job['seconds']:.0f}",
                _gigabytes(job["peak_bytes"]),
                "passed" if job["self_check"] else "failed",
            ]
            for name, job in ((name, found["job"]) for name, found in networks.items())
        ),
    ]
    serving = [
        [
            "network",
            "device",
            "export, s",
            "open, s",
            "self-check, s",
            "Embed, ms",
            "Verify, ms",
            "images/s at best",
            "peak memory, GB",
        ],
        *(
            _serving_row(name, found["export"], found[f"serving, {device}"])
            for name, found in networks.items()
            for device in _devices()
        ),
    ]
    return "\n".join(_markdown(rows) for rows in (training, stages, jobs, serving))


def _training_row(name: str, kind: TrainingFormat, steps: Figures) -> list[str]:
    return [
        name,
        str(kind),
        f"{steps['seconds_a_step']:.1f}",
        f"{steps['processor_seconds_a_step']:.1f}",
        str(steps["images_at_once"]),
        _gigabytes(steps["peak_bytes"]),
        _gigabytes(steps["gpu_peak_bytes"]),
        f"{steps['projected_s']['total'] / 60:.0f} min",
        f"{steps['projected_idle_s']['total'] / 60:.0f} min",
    ]


def _serving_row(name: str, export: Figures, serving: Figures) -> list[str]:
    speeds: Mapping[str, float] = serving["images_per_second"]
    return [
        name,
        serving["device"],
        f"{export['export_s']:.0f}",
        f"{serving['open_s']:.1f}",
        f"{serving['check_s']:.1f}",
        f"{1000 / speeds['1']:.0f}",
        f"{2000 / speeds['2']:.0f}",
        f"{max(speeds.values()):.1f}",
        _gigabytes(serving["peak_bytes"]),
    ]


def _gigabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e9:.1f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
