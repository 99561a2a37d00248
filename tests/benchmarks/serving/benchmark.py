"""What the embedder reaches on this machine, all figures from one run (`make bench-serving`).

``make bench-serving ONLY=engine,swap`` measures these sections anew, ``ONLY=peers
PEERS=litserve`` that server. Finished sections are kept
in ``serving.sections.json``; a run without ONLY goes on with those that are missing or were
measured with other sources. ``SERVING_QUICK=1`` tries everything in tiny durations, whose figures
mean nothing. Every picture sent is a file that the server has not seen, except where the cache is
measured: so the cache is on, as it is by default, and does not help.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.serving.load.measurement import Figures
from tests.benchmarks.serving.plan import Plan, machine, make_plan
from tests.benchmarks.serving.section_store import KeptSections
from tests.benchmarks.serving.sections.int8 import int8
from tests.benchmarks.serving.sections.overhead import overhead
from tests.benchmarks.serving.sections.overload import cancel, overload
from tests.benchmarks.serving.sections.peer_servers import peers
from tests.benchmarks.serving.sections.shadow import shadow
from tests.benchmarks.serving.sections.speed import cache, engine, latency
from tests.benchmarks.serving.sections.swap import swap
from tests.benchmarks.serving.servers.versions import BenchVersions
from tests.benchmarks.serving.targets import against_bars

Section = Callable[[Plan, Path, BenchVersions], Figures]


def run(out: Path) -> dict[str, Any]:
    """Measure what is named, or what is not yet measured.

    Args:
        out: Folder for what is kept between runs.

    Returns:
        All sections that have been measured, and each bar with what was reached.
    """
    plan = make_plan()
    out.mkdir(parents=True, exist_ok=True)
    kept = KeptSections(out / "serving.sections.json", quick=plan.quick)
    sections = _sections(out)
    only = _only(sections)
    for name, section in sections.items():
        if (only and name not in only) or (not only and kept.get(name)):
            continue
        sys.stderr.write(f"== {name}\n")
        kept.put(name, _measure(section, plan, out))
    found = {name: figures for name in sections if (figures := kept.get(name))}
    return {
        "quick": plan.quick,
        "machine": machine(),
        "bars": against_bars(found),
        "sections": found,
    }


def _sections(out: Path) -> dict[str, Section]:
    """In the order of the table."""
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
    }


def _only(sections: dict[str, Section]) -> set[str]:
    only = {name for name in os.environ.get("ONLY", "").split(",") if name}
    if unknown := sorted(only - set(sections)):
        sys.exit(f"there is no section {', '.join(unknown)}; there are: {', '.join(sections)}")
    return only


def _measure(section: Section, plan: Plan, out: Path) -> Figures:
    at_start = machine()
    with tempfile.TemporaryDirectory(prefix="serving-") as folder:
        versions = BenchVersions(out / "serving-versions", quick=plan.quick)
        figures = section(plan, Path(folder), versions)
    return figures | {"machine_at_start": at_start}
