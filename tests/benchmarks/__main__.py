"""`python -m tests.benchmarks [NAME ...]` measures and writes ``out/bench/NAME.json``."""

import importlib
import json
import sys
from pathlib import Path

# Each module has `run(out: Path) -> dict`.
MODULES = {
    "ablation": "ablation",
    "evaluate": "evaluate",
    "feedback": "feedback.benchmark",
    "formats": "formats",
    "learning": "learning.benchmark",
    "selection": "selection.benchmark",
    "serving": "serving.benchmark",
    "sessions": "sessions",
}
_OUT = Path("out/bench")


def main(names: list[str]) -> None:
    """Run the benchmarks that are named, or all of them."""
    unknown = sorted(set(names) - set(MODULES))
    if unknown:
        sys.exit(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(MODULES)}")
    for name in names or MODULES:
        measured = importlib.import_module(f"tests.benchmarks.{MODULES[name]}").run(_OUT)
        _OUT.mkdir(parents=True, exist_ok=True)
        file = _OUT / f"{name}.json"
        file.write_text(json.dumps(measured, indent=1) + "\n")
        sys.stderr.write(f"written to {file}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
