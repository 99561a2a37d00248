"""Reader of labelled-pair files that selects the format by the suffix."""

from pathlib import Path

from shared.datasets.pairs import PairSet
from shared.datasets.pairs_bin import read_bin
from shared.datasets.pairs_json import read_pairs_json
from shared.datasets.pairs_lfw import read_lfw_pairs
from shared.errors import InvalidInput


def read_pair_file(path: Path, images: Path | None = None) -> PairSet:
    """Read a pairs JSON, an LFW ``pairs.txt`` or an InsightFace ``.bin``, by its suffix.

    Args:
        path: The file.
        images: Folder that the paths in the file are relative to; the folder of the file when None.

    Raises:
        InvalidInput: If the file cannot be read, has another suffix, or does not follow its format.
    """
    match path.suffix.lower():
        case ".json":
            return read_pairs_json(path, images)
        case ".txt":
            return read_lfw_pairs(path, images)
        case ".bin":
            return read_bin(path)
        case suffix:
            raise InvalidInput(
                str(path),
                f"ends in {suffix!r}; pair files are .json, .txt (LFW) or .bin (InsightFace)",
            )
