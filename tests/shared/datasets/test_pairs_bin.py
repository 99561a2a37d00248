import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.datasets.pair_files import read_pair_file
from shared.errors import InvalidInput
from tests.shared.datasets.files import bin_file

IMAGES = [b"a", b"b", b"c" * 300, b"d", b"a", b"d"]
LABELS = [True, False, False]


def raw(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# Bytes have their own opcodes from protocol 3 on; for protocol 2 Python 3 writes a call.
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_images_and_labels_come_out(tmp_path: Path, protocol: int) -> None:
    pair_set = read_pair_file(bin_file(tmp_path / "lfw.bin", IMAGES, LABELS, protocol))
    assert pair_set.images == (b"a", b"b", b"c" * 300, b"d")
    assert pair_set.pairs.tolist() == [[0, 1], [2, 3], [0, 3]]
    assert pair_set.labels.tolist() == LABELS
    assert pair_set.folds is None
    assert pair_set.data(2) == b"c" * 300
    assert pair_set.name(2) == "image_00002"


def test_what_python_2_wrote_is_read(tmp_path: Path) -> None:
    # ([str "a\xff", str "b"], [True]) as Python 2 pickles it.
    data = b"\x80\x02]q\x01(U\x02a\xffq\x02U\x01bq\x03e]q\x04\x88a\x86q\x05."
    pair_set = read_pair_file(raw(tmp_path / "lfw.bin", data))
    assert pair_set.images == (b"a\xff", b"b")
    assert pair_set.labels.tolist() == [True]


def test_folds_are_ten_equal_runs(tmp_path: Path) -> None:
    images = [bytes([number]) for number in range(120)]
    pair_set = read_pair_file(bin_file(tmp_path / "agedb.bin", images, [True, False] * 30))
    assert pair_set.folds is not None
    assert pair_set.folds.tolist() == np.repeat(np.arange(10), 6).tolist()


class Calls:
    """Pickled as a call that creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["whole", "image", "label", "list"])
def test_a_pickle_that_calls_is_refused_and_executes_nothing(
    tmp_path: Path, protocol: int, place: str
) -> None:
    marker = tmp_path / "executed"
    call = Calls(marker)
    content: Any = {
        "whole": call,
        "image": ([call, b"b"], [True]),
        "label": ([b"a", b"b"], [call]),
        "list": (call, [True]),
    }[place]
    path = raw(tmp_path / "evil.bin", pickle.dumps(content, protocol=protocol))
    with pytest.raises(InvalidInput, match="is refused: at byte"):
        read_pair_file(path)
    assert not marker.exists()
    # An ordinary unpickler runs the code in the same file.
    pickle.loads(path.read_bytes())  # noqa: S301
    assert marker.exists()


def test_a_call_after_the_end_of_the_pickle_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    data = pickle.dumps((IMAGES, LABELS)) + pickle.dumps(Calls(marker))
    assert len(read_pair_file(raw(tmp_path / "tail.bin", data))) == 3
    assert not marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        # The extension registry, a persistent object, an instance, an unpickler's buffer.
        b"\x80\x02\x82\x01.",
        b"\x80\x02Pid\n.",
        b"(ios\nsystem\n.",
        b"\x80\x05\x97.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    ],
)
def test_every_other_way_to_an_object_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidInput, match="is refused: at byte"):
        read_pair_file(raw(tmp_path / "evil.bin", data))


@pytest.mark.parametrize(
    "data",
    [
        # Memo index 2,000,000,000; a byte string of 200 GB that is not in the file.
        b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b".",
        b"]p2000000000\n.",
        b"\x80\x04\x8e" + struct.pack("<Q", 200 * 2**30) + b"abc.",
    ],
)
def test_a_large_number_does_not_fill_the_memory(tmp_path: Path, data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(InvalidInput):
        read_pair_file(raw(tmp_path / "bomb.bin", data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (([b"a", b"b"], [True], []), "is refused|two lists"),
        ([[b"a", b"b"]], "does not hold two lists"),
        (([b"a", b"b", b"c"], [True]), "3 images for 1 pairs"),
        (([b"a", True], [True]), "not a list of encoded images"),
        (([b"a", b"b"], [b"x"]), "not a list of booleans"),
        ((b"ab", [True]), "not a list of encoded images"),
        (([], []), "there are none"),
        (b"", "does not hold two lists"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: Any, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        read_pair_file(raw(tmp_path / "odd.bin", pickle.dumps(content)))


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_and_nothing_else_is_raised(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = raw(tmp_path_factory.getbasetemp() / "any.bin", data)
    with pytest.raises(InvalidInput):
        read_pair_file(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps((IMAGES, LABELS))
    for length in range(len(data)):
        with pytest.raises(InvalidInput):
            read_pair_file(raw(tmp_path / "cut.bin", data[:length]))


@pytest.mark.parametrize(
    ("images", "labels", "why"),
    [
        ([b"a", b"b", b"c", b"c"], [True, True], "pair 1: compares an image with itself"),
        ([b"a", b"b", b"b", b"a"], [True, False], "pair 1: contradicts pair 0"),
        ([b"a", b"b", b"c", b"d", b"b", b"a"], [True, False, True], "pair 2: repeats pair 0"),
    ],
)
def test_pairs_that_cannot_be_measured_are_refused(
    tmp_path: Path, images: list[bytes], labels: list[bool], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        read_pair_file(bin_file(tmp_path / "odd.bin", images, labels))
