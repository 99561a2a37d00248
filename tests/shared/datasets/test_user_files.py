import os
import socket
from pathlib import Path

import pytest

from shared.datasets.user_files import read_regular, read_text
from shared.errors import InvalidInput


def test_only_regular_files_are_read_and_nothing_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "to_pipe.jpg").symlink_to(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "absent.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
    odd = {
        "folder.jpg": "is a folder",
        "pipe.jpg": "is a pipe",
        "to_pipe.jpg": "is a pipe",
        "dangling.jpg": "cannot be read: No such file",
        "loop.jpg": "cannot be read: Too many levels",
        "socket.jpg": "cannot be read",
        "absent.jpg": "cannot be read: No such file",
        "n" * 300: "cannot be read: File name too long",
        "zero\0": "cannot be the path of a file",
    }
    for name, reason in odd.items():
        with pytest.raises(InvalidInput, match=reason) as caught:
            read_regular(tmp_path / name)
        assert caught.value.field == str(tmp_path / name)
    with pytest.raises(InvalidInput, match="pipe, a socket or a device"):
        read_regular(Path("/dev/zero"))


def test_a_link_to_a_file_is_read_unless_it_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "link", most_bytes=5) == b"12345"
    with pytest.raises(InvalidInput, match="has 5 bytes"):
        read_regular(tmp_path / "link", most_bytes=4)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"]
)
def test_text_is_read_by_its_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    marked = "\ufeff" if encoding.endswith(("-le", "-be")) else ""
    (tmp_path / "text").write_bytes((marked + "Zoë 1").encode(encoding))
    assert read_text(tmp_path / "text") == "Zoë 1"
