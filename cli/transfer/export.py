"""Export of labelled pairs as JSON or Parquet, with their images."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeAlias

from magface.v1 import feedback_pb2
from magface.v1.feedback_pb2_grpc import FeedbackServiceStub

from cli.clients import CALL_TIMEOUT_S
from cli.output import counting_progress, to_plain
from shared.errors import NotFound
from shared.rpc.errors import domain_errors

_Pairs: TypeAlias = Sequence[feedback_pb2.LabelledPair]
_Images: TypeAlias = dict[str, dict[str, Any]]

_CALLS_AT_ONCE: Final = 8
_EXPORT_TIMEOUT_S: Final = 3600.0
_SUFFIXES: Final = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"BM": ".bmp"}


class ExportFormat(StrEnum):
    """File format of an export."""

    JSON = "json"
    PARQUET = "parquet"


def export_pairs(
    stub: FeedbackServiceStub, folder: Path, snapshot_id: str, form: ExportFormat
) -> dict[str, Any]:
    """Writes every pair that has a consensus, and ``images/`` beside them.

    JSON goes to ``pairs.json``, in the format of `read_pairs_json`; Parquet to ``pairs.parquet``
    and ``images.parquet``, with the ``snapshot_id`` in their metadata. The same snapshot gives the
    same pairs, except for images that were erased since, also during the export.

    Returns:
        The snapshot's id, and the numbers of pairs and images.
    """
    found, snapshot_id = _stream_pairs(stub, snapshot_id)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images = _fetch_images(stub, folder, found)
    pairs = [pair for pair in found if {pair.sha256_a, pair.sha256_b} <= images.keys()]
    write = _write_json if form is ExportFormat.JSON else _write_parquet
    write(folder, snapshot_id, pairs, images)
    return {"snapshot_id": snapshot_id, "pairs": len(pairs), "images": len(images)}


def _write_json(folder: Path, snapshot_id: str, pairs: _Pairs, images: _Images) -> None:
    entries = [_entry(pair, images) for pair in pairs]
    content = {"snapshot_id": snapshot_id, "pairs": entries, "images": images}
    (folder / "pairs.json").write_text(json.dumps(content, indent=1) + "\n")


def _write_parquet(folder: Path, snapshot_id: str, pairs: _Pairs, images: _Images) -> None:
    import pyarrow as arrow
    from pyarrow.parquet import write_table

    text = arrow.string()
    vote = arrow.struct([("annotator", text), ("label", text)])
    point = arrow.struct([("x", arrow.float32()), ("y", arrow.float32())])
    sides = ("x", "y", "width", "height")
    box = arrow.struct([(side, arrow.float32()) for side in sides])
    pair_columns = [("image1", text), ("image2", text), ("label", arrow.int8())]
    pair_columns += [("confidence", arrow.float32()), ("votes", arrow.list_(vote))]
    image_columns = [("sha256", text), ("file", text), ("alignment", text)]
    image_columns += [("landmarks", arrow.list_(point)), ("box", box)]
    tables = {
        "pairs": (pair_columns, [_entry(pair, images) for pair in pairs]),
        "images": (image_columns, [{"sha256": name, **image} for name, image in images.items()]),
    }
    for name, (columns, rows) in tables.items():
        schema = arrow.schema(columns, metadata={"snapshot_id": snapshot_id})
        write_table(arrow.Table.from_pylist(rows, schema), folder / f"{name}.parquet")


def _entry(pair: feedback_pb2.LabelledPair, images: _Images) -> dict[str, Any]:
    return {
        "image1": images[pair.sha256_a]["file"],
        "image2": images[pair.sha256_b]["file"],
        "label": int(pair.label == feedback_pb2.LABEL_SAME),
        "confidence": pair.confidence,
        "votes": [to_plain(vote) for vote in pair.votes],
    }


def _fetch_images(stub: FeedbackServiceStub, folder: Path, pairs: _Pairs) -> _Images:
    wanted = sorted({sha256 for pair in pairs for sha256 in (pair.sha256_a, pair.sha256_b)})
    with counting_progress() as progress, ThreadPoolExecutor(_CALLS_AT_ONCE) as pool:
        fetched = pool.map(lambda sha256: _fetch_image(stub, folder, sha256), wanted)
        shown = progress.track(fetched, total=len(wanted), description="fetching images")
        images = dict(zip(wanted, shown, strict=True))
    return {sha256: image for sha256, image in images.items() if image is not None}


def _stream_pairs(
    stub: FeedbackServiceStub, snapshot_id: str
) -> tuple[list[feedback_pb2.LabelledPair], str]:
    pairs: list[feedback_pb2.LabelledPair] = []
    request = feedback_pb2.ExportPairsRequest(snapshot_id=snapshot_id)
    for part in stub.ExportPairs(request, timeout=_EXPORT_TIMEOUT_S):
        snapshot_id = part.snapshot_id
        pairs += part.pairs
    return pairs, snapshot_id


def _fetch_image(stub: FeedbackServiceStub, folder: Path, sha256: str) -> dict[str, Any] | None:
    request = feedback_pb2.GetImageRequest(sha256=sha256)
    try:
        with domain_errors():
            image = stub.GetImage(request, timeout=CALL_TIMEOUT_S).image
    except NotFound:
        return None
    name = f"images/{sha256}{_SUFFIXES.get(image.data[:2], '')}"
    (folder / name).write_bytes(image.data)
    plain = to_plain(image)
    return {"file": name, **{key: plain[key] for key in ("alignment", "landmarks", "box")}}
