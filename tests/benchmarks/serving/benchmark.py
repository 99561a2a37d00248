"""Performance of the embedder on this machine (`make bench-serving`).

Finished sections are stored in ``serving.sections.json``. A run measures the sections that are
missing there or were measured with other sources. ``make bench-serving ONLY=engine,swap`` measures
these sections again, ``ONLY=peers PEERS=litserve`` one other server. ``SERVING_QUICK=1`` runs
everything in very short durations, to test the benchmark; its figures mean nothing.

The cache is on, as it is by default, but each request has an image that is new to the server, so
it has no hits. The exception is the section that measures the cache.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.progress import log
from tests.benchmarks.serving.load.measurement import Figures
from tests.benchmarks.serving.plan import Plan, machine, make_plan
from tests.benchmarks.serving.section_store import SectionStore
from tests.benchmarks.serving.sections.hostile import hostile
from tests.benchmarks.serving.sections.int8 import int8
from tests.benchmarks.serving.sections.overhead import overhead
from tests.benchmarks.serving.sections.overload import cancel, overload
from tests.benchmarks.serving.sections.peer_servers import peers
from tests.benchmarks.serving.sections.photographs import photographs
from tests.benchmarks.serving.sections.shadow import shadow
from tests.benchmarks.serving.sections.speed import cache, engine, latency
from tests.benchmarks.serving.sections.swap import swap
from tests.benchmarks.serving.servers.versions import BenchVersions
from tests.benchmarks.serving.targets import compare_with_targets

Section = Callable[[Plan, Path, BenchVersions], Figures]


def run(out: Path) -> dict[str, Any]:
    """Measure the sections named by ``ONLY``, or those without a stored result.

    Args:
        out: Folder for stored sections, model versions and virtual environments.

    Returns:
        The figures of all measured sections, and how they compare with the targets.
    """
    plan = make_plan()
    out.mkdir(parents=True, exist_ok=True)
    store = SectionStore(out / "serving.sections.json", quick=plan.quick)
    sections = _sections(out)
    only = _only(sections)
    for name, section in sections.items():
        if (only and name not in only) or (not only and store.get(name)):
            continue
        log(f"== {name}")
        store.put(name, _measure(section, plan, out))
    found = {name: figures for name in sections if (figures := store.get(name))}
    return {
        "quick": plan.quick,
        "machine": machine(),
        "bars": compare_with_targets(found),
        "sections": found,
    }


def _sections(out: Path) -> dict[str, Section]:
    """Give all sections in the order of the table in docs/serving.md."""
    return {
        "engine": engine,
        "latency": latency,
        "overhead": overhead,
        "peers": partial(peers, homes=out / "peers"),
        "cache": cache,
        "int8": int8,
        "swap": swap,
        "shadow": shadow,
        "overload": overload,
        "cancel": cancel,
        "hostile": hostile,
        "photographs": photographs,
    }


def _only(sections: dict[str, Section]) -> set[str]:
    only = {name for name in os.environ.get("ONLY", "").split(",") if name}
    if unknown := sorted(only - set(sections)):
        sys.exit(f"unknown section: {', '.join(unknown)}; known: {', '.join(sections)}")
    return only


def _measure(section: Section, plan: Plan, out: Path) -> Figures:
    at_start = machine()
    with tempfile.TemporaryDirectory(prefix="serving-") as folder:
        versions = BenchVersions(out / "serving-versions", quick=plan.quick)
        figures = section(plan, Path(folder), versions)
    return figures | {"machine_at_start": at_start}
