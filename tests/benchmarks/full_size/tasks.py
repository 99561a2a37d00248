"""The measurements of a child process, by name, with arguments that JSON can hold."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.full_size.binding import measure_binding
from tests.benchmarks.full_size.serving import measure_serving

Figures = Mapping[str, Any]
# Runs a task by its name and arguments.
Runner = Callable[..., Figures]


def run_task(task: str, **arguments: Any) -> Figures:
    """Do a task in this process; `child.run_in_child` does it in a process of its own.

    Args:
        task: A key of the table below.
        arguments: Arguments of its function.
    """
    return _TASKS[task](**arguments)


def _export(name: str, widths: list[int], version: str) -> Figures:
    # Here and below imported late, because the memory of serving is measured without torch.
    from tests.benchmarks.full_size.networks import Network, export_network

    return export_network(Network(name, tuple(widths)), Path(version))


def _serve(version: str, engine: Any, device: Any, batches: list[int], seconds: float) -> Figures:
    return measure_serving(Path(version), engine, device, tuple(batches), seconds)


def _steps(version: str, faces: str, people: int, kind: Mapping[str, bool], steps: int) -> Figures:
    from tests.benchmarks.full_size.feedback import read_faces
    from tests.benchmarks.full_size.steps import TrainingFormat, measure_steps

    crops = read_faces(Path(faces), people)
    with TemporaryDirectory() as workdir:
        found = measure_steps(Path(version), crops, Path(workdir), TrainingFormat(**kind), steps)
    return found | _torch_memory()


def _job(version: str, faces: str, people: int, epochs: int) -> Figures:
    from tests.benchmarks.full_size.feedback import read_faces
    from tests.benchmarks.full_size.job import measure_job

    with TemporaryDirectory() as workdir:
        found = measure_job(Path(version), read_faces(Path(faces), people), Path(workdir), epochs)
    return {**found, **_torch_memory()}


def _bind(version: str, device: Any, batch: int, seconds: float) -> Figures:
    return measure_binding(Path(version), device, batch, seconds)


def _torch_memory() -> dict[str, int | None]:
    import torch

    used = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None
    return {"gpu_peak_bytes": used}


_TASKS: Mapping[str, Callable[..., Figures]] = {
    "export": _export,
    "serve": _serve,
    "steps": _steps,
    "job": _job,
    "bind": _bind,
}
