"""Version folders for tests of the registry; no engine can load their content."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

from shared.model.manifest import ONNX_FILE, WEIGHTS_FILE, FileEntry, GoldenCrop, Manifest


def write_version(folder: Path, model_version: str, *, size: int = 300_000) -> Manifest:
    folder.mkdir(parents=True)
    files = {ONNX_FILE: os.urandom(size), WEIGHTS_FILE: os.urandom(size)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = Manifest(
        model_version=model_version,
        architecture="iresnet18",
        embedding_size=512,
        channel_order="bgr",
        threshold=0.3,
        magnitude_quantiles=(1.0, 2.0),
        parent_version=None,
        job_id="job",
        data_snapshot=None,
        created_at=datetime.now(UTC),
        files={
            name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            for name, data in files.items()
        },
        golden=(GoldenCrop(png="", embedding="", magnitude=1.0),),
    )
    manifest.write(folder)
    return manifest
