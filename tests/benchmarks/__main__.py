"""Command line of the benchmarks: `python -m tests.benchmarks [NAME ...]`.

Each benchmark writes its figures to ``out/bench/NAME.json``.
"""

import importlib
import json
import sys
from pathlib import Path

from tests.benchmarks.progress import log

# Each module has `run(out: Path) -> dict[str, object]`.
MODULES = {
    "ablation": "ablation",
    "crops": "robustness.crops",
    "evaluate": "evaluate",
    "feedback": "feedback.benchmark",
    "formats": "formats",
    "label-noise": "learning.label_noise",
    "learning": "learning.benchmark",
    "regret": "learning.regret",
    "robustness": "robustness.benchmark",
    "selection": "selection.benchmark",
    "serving": "serving.benchmark",
    "sessions": "sessions",
}
_OUT = Path("out/bench")


def main(names: list[str]) -> None:
    """Run the named benchmarks; all of them when none is named."""
    unknown = sorted(set(names) - set(MODULES))
    if unknown:
        sys.exit(f"unknown benchmark: {', '.join(unknown)}; known: {', '.join(MODULES)}")
    for name in names or MODULES:
        figures = importlib.import_module(f"tests.benchmarks.{MODULES[name]}").run(_OUT)
        _OUT.mkdir(parents=True, exist_ok=True)
        file = _OUT / f"{name}.json"
        file.write_text(json.dumps(figures, indent=1) + "\n")
        log(f"wrote {file}")


if __name__ == "__main__":
    main(sys.argv[1:])
