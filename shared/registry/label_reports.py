"""Label reports of jobs: suspected labels, and images left out or held out, by their hashes."""

import json
from collections.abc import Collection
from typing import Final

LABEL_REPORTS: Final = "suspects/"


def images_in_report(data: bytes) -> frozenset[bytes]:
    """Return the SHA-256 of the images in a report.

    Raises:
        ValueError: If it does not follow its format.
    """
    try:
        content = json.loads(data)
        suspects = [one[side] for one in content["suspects"] for side in ("sha256_a", "sha256_b")]
        left_out = [one["sha256"] for one in content.get("left_out", ())]
        held_out = content.get("held_out", ())
        return frozenset(map(bytes.fromhex, [*suspects, *left_out, *held_out]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no list of suspects: {error!r}") from error


def report_without(data: bytes, hashes: Collection[bytes]) -> bytes:
    """Leave out some images of a report, and pairs with them; the figures stay unchanged."""
    content = json.loads(data)
    erased = {sha256.hex() for sha256 in hashes}
    suspects = [
        one for one in content["suspects"] if erased.isdisjoint((one["sha256_a"], one["sha256_b"]))
    ]
    left_out = [one for one in content.get("left_out", ()) if one["sha256"] not in erased]
    held_out = [one for one in content.get("held_out", ()) if one not in erased]
    kept = {"suspects": suspects, "left_out": left_out, "held_out": held_out}
    return json.dumps(content | kept).encode()
