"""Throughput and latency of the feedback service, at several numbers of stored labels.

Labels are submitted for random pairs of stored images, which are named by their hash. In the same
rounds and on the same tables, bare psycopg inserts the same rows (pair, label, consensus).
`bare_each` is a caller without the service: one transaction per label, with as many in parallel as
the service has callers. `bare_batches` is one writer that has all labels in advance and answers
nobody: one transaction per batch, with batches as large as the service's.

`make bench-feedback LABELS=50000` measures up to that many stored labels.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from deploy.local.s3_nanio import NanioServer
from tests.benchmarks.feedback.latency import measure_latency
from tests.benchmarks.feedback.throughput import measure_throughput
from tests.benchmarks.progress import log
from tests.services.feedback.support.bulk_rows import fill
from tests.services.feedback.support.stack import FeedbackStack, running_stack

_RATIO_TARGET: Final = 0.5
_P95_TARGET_MS: Final = 50.0
# The images have no objects in the store, so a sweep would only cost time.
_SETTINGS = {"MAGFACE_FEEDBACK_SWEEP_EVERY_S": "86400", "MAGFACE_DATABASE_TIMEOUT_S": "30"}


@dataclass(frozen=True)
class Sizes:
    """Sizes of the benchmark.

    Attributes:
        stored: Numbers of stored labels to measure at. There are a tenth as many images and half
            as many pairs.
        submitted: Labels that each alternative stores in a round.
        rounds: Number of rounds; figures are medians over the rounds.
        callers: Labels in flight at a time.
        calls: Timed calls of each method.
    """

    stored: tuple[int, ...] = (10_000, 1_000_000)
    submitted: int = 4_000
    rounds: int = 5
    callers: int = 64
    calls: int = 300


def run(_: Path, sizes: Sizes | None = None) -> dict[str, object]:
    """Measure; `ratio` is that of the slowest way to submit, at the highest number of labels."""
    sizes = sizes or _sizes_from_environment()
    at = {str(stored): _measure(stored, sizes) for stored in sizes.stored}
    most = at[str(max(sizes.stored))]
    return {
        "ratio": min(most["storing"]["ratios"].values()),
        "ratio_bar": _RATIO_TARGET,
        "get_stats_p95_ms": most["asking"]["get_stats"]["p95_ms"],
        "next_pairs_p95_ms": most["asking"]["next_pairs"]["p95_ms"],
        "p95_bar_ms": _P95_TARGET_MS,
        "export_rss_growth_mib": most["asking"]["export_pairs"]["rss_growth_mib"],
        "submitted": sizes.submitted,
        "rounds": sizes.rounds,
        "callers": sizes.callers,
        "labels_stored": at,
    }


def _sizes_from_environment() -> Sizes:
    most = int(os.environ.get("LABELS", "1000000"))
    return Sizes(stored=(min(10_000, most // 2), most))


def _measure(stored: int, sizes: Sizes) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        running_stack(Path(folder), NanioServer, _SETTINGS) as parts,
    ):
        Path(folder).chmod(0o755)
        _fill(parts, stored)
        return {
            "asking": uvloop.run(measure_latency(parts, stored, sizes.calls)),
            "storing": uvloop.run(
                measure_throughput(parts, stored, sizes.submitted, sizes.rounds, sizes.callers)
            ),
        }


def _fill(parts: FeedbackStack, stored: int) -> None:
    log(f"inserting {stored} labels")
    fill(parts.database_url, images=stored // 10, pairs=stored // 2, labels=stored)
