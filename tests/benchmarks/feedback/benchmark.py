"""How fast labels are stored and asked for, and how that grows with what is stored.

Labels are of images that are stored, named by their hash, on pairs drawn at random. Beside the
service, on the same tables in the same minutes, bare psycopg inserts the same rows (pair,
label, consensus): `bare_each` as a caller would without the service, each label a transaction,
as many at a time as the service has callers; `bare_batches` by one writer that has all labels
beforehand and needs to answer nobody, a batch a transaction, as large as the service's own.

`make bench-feedback LABELS=50000` stops at that many.
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from deploy.local.s3_nanio import NanioServer
from tests.benchmarks.feedback.latency import measure_asking
from tests.benchmarks.feedback.throughput import measure_storing
from tests.services.feedback.filling import fill
from tests.services.feedback.parts import Parts, running

_RATIO_BAR: Final = 0.5
_P95_BAR_MS: Final = 50.0
# The filled images have no objects: a sweep would only cost time. Nothing is measured at first.
_QUIET = {"MAGFACE_FEEDBACK_SWEEP_EVERY_S": "86400", "MAGFACE_DATABASE_TIMEOUT_S": "30"}


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        stored: Labels there are beforehand, one measurement each; a tenth as many images,
            half as many pairs.
        submitted: Labels stored in a round, by each way.
        rounds: The ways take turns; figures are medians over the rounds.
        callers: Labels under way at a time.
        asked: Calls of each kind that are timed.
    """

    stored: tuple[int, ...] = (10_000, 1_000_000)
    submitted: int = 4_000
    rounds: int = 5
    callers: int = 64
    asked: int = 300


def run(_: Path, sizes: Sizes | None = None) -> dict[str, object]:
    """Measure; `ratio` is that of the slower way to submit at the most labels."""
    sizes = sizes or _asked_for()
    at = {str(stored): _measure(stored, sizes) for stored in sizes.stored}
    most = at[str(max(sizes.stored))]
    return {
        "ratio": min(most["storing"]["ratios"].values()),
        "ratio_bar": _RATIO_BAR,
        "get_stats_p95_ms": most["asking"]["get_stats"]["p95_ms"],
        "next_pairs_p95_ms": most["asking"]["next_pairs"]["p95_ms"],
        "p95_bar_ms": _P95_BAR_MS,
        "export_rss_growth_mib": most["asking"]["export_pairs"]["rss_growth_mib"],
        "submitted": sizes.submitted,
        "rounds": sizes.rounds,
        "callers": sizes.callers,
        "labels_stored": at,
    }


def _asked_for() -> Sizes:
    most = int(os.environ.get("LABELS", "1000000"))
    return Sizes(stored=(min(10_000, most // 2), most))


def _measure(stored: int, sizes: Sizes) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        running(Path(folder), NanioServer, _QUIET) as parts,
    ):
        Path(folder).chmod(0o755)
        _fill(parts, stored)
        return {
            "asking": uvloop.run(measure_asking(parts, stored, sizes.asked)),
            "storing": uvloop.run(
                measure_storing(parts, stored, sizes.submitted, sizes.rounds, sizes.callers)
            ),
        }


def _fill(parts: Parts, stored: int) -> None:
    sys.stderr.write(f"filling {stored} labels\n")
    fill(parts.database_url, images=stored // 10, pairs=stored // 2, labels=stored)
