"""Command line of the benchmarks: `python -m tests.benchmarks [--dry-run] [NAME ...]`.

Each benchmark writes its figures to ``out/bench/NAME.json``.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

from shared.errors import MagFaceError
from tests.benchmarks.progress import log

# Each module has `run(out: Path) -> dict[str, object]`.
MODULES = {
    "ablation": "ablation",
    "crops": "robustness.crops",
    "evaluate": "evaluate",
    "feedback": "feedback.benchmark",
    "formats": "formats",
    "gate": "gate.benchmark",
    "full-size": "full_size.benchmark",
    "gpu": "gpu.benchmark",
    "label-noise": "learning.label_noise",
    "learning": "learning.benchmark",
    "regret": "learning.regret",
    "robustness": "robustness.benchmark",
    "selection": "selection.benchmark",
    "serving": "serving.benchmark",
    "sessions": "sessions",
}
# Their `run` has an argument `dry_run`.
_WITH_DRY_RUN = ("full-size", "gpu")
_OUT = Path("out/bench")


def main(arguments: list[str]) -> None:
    """Run the named benchmarks; all of them when none is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODULES))
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help=f"do everything on a small scale, to test the benchmark: {', '.join(_WITH_DRY_RUN)}",
    )
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(MODULES)):
        sys.exit(f"unknown benchmark: {', '.join(unknown)}; known: {', '.join(MODULES)}")
    if given.dry_run and (not given.names or set(given.names) - set(_WITH_DRY_RUN)):
        sys.exit(f"only these have a dry run, name one: {', '.join(_WITH_DRY_RUN)}")
    try:
        _run(given.names or list(MODULES), {"dry_run": True} if given.dry_run else {})
    except MagFaceError as error:
        sys.exit(str(error))


def _run(names: list[str], options: dict[str, bool]) -> None:
    for name in names:
        module = importlib.import_module(f"tests.benchmarks.{MODULES[name]}")
        figures = module.run(_OUT, **options)
        _OUT.mkdir(parents=True, exist_ok=True)
        file = _OUT / f"{name}.json"
        file.write_text(json.dumps(figures, indent=1) + "\n")
        log(f"wrote {file}")
        if failed := figures.get("failed"):
            sys.exit(f"{name}: failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
