"""Label reports of trainings: stored suspicions of wrong labels, with the hashes of images."""

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
        return frozenset(
            bytes.fromhex(one[side])
            for one in json.loads(data)["suspects"]
            for side in ("sha256_a", "sha256_b")
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no list of suspects: {error!r}") from error


def report_without(data: bytes, hashes: Collection[bytes]) -> bytes:
    """Leave out the pairs with some images of a report; the figures stay unchanged."""
    content = json.loads(data)
    erased = {sha256.hex() for sha256 in hashes}
    remaining = [
        one for one in content["suspects"] if erased.isdisjoint((one["sha256_a"], one["sha256_b"]))
    ]
    return json.dumps(content | {"suspects": remaining}).encode()
