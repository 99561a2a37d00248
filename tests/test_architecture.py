"""docs/architecture.md names files and functions that exist, and folders stay small."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
# A row of the table: question, file, functions in order.
ROWS = re.findall(r"^\| ([^|]+\?) \| `([\w/]+\.py)` \| (.+) \|$", PAGE, re.MULTILINE)
MOST_ENTRIES = 14


def _names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in tree.body:
        if isinstance(node, functions):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, functions)}
    return names


def test_the_table_has_its_questions() -> None:
    questions = {question for question, _, _ in ROWS}
    assert len(questions) >= 6
    assert len(ROWS) >= 6


@pytest.mark.parametrize(("question", "file", "functions"), ROWS)
def test_where_something_happens_is_named_rightly(question: str, file: str, functions: str) -> None:
    known = _names(ast.parse((ROOT / file).read_text()))
    named = set(re.findall(r"`([\w.]+)`", functions))
    assert named, question
    assert named <= known


def test_every_package_of_a_service_is_on_the_page() -> None:
    for service in ("embedder", "feedback", "trainer"):
        for package in sorted((ROOT / "services" / service).iterdir()):
            if (package / "__init__.py").exists():
                assert f"| `{package.name}/` |" in PAGE


def test_no_folder_has_many_entries() -> None:
    folders = [
        folder
        for part in ("services", "shared", "cli", "deploy")
        for folder in (ROOT / part).rglob("*")
        # Applied migrations are never removed, so that their folders grow.
        if folder.is_dir() and folder.name not in ("__pycache__", "migrations")
    ]
    for folder in folders:
        entries = [one.name for one in folder.iterdir() if not one.name.startswith("__")]
        assert len(entries) <= MOST_ENTRIES, f"{folder}: {sorted(entries)}"
