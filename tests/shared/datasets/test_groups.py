"""Groups of people: the CSV file, and where it lies."""

from pathlib import Path

import pytest

from shared.datasets.folder import find_images, read_identities
from shared.datasets.groups import folder_groups, read_groups, write_groups
from shared.errors import InvalidInput
from tests.shared.datasets.files import people

KNOWN = ("Ann", "Bo", "Zoë Lind")
GROUPS = {"Ann": "dark", "Zoë Lind": "light"}


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "groups.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"], ids=["utf8", "bom", "utf16", "utf32"]
)
@pytest.mark.parametrize(
    "text",
    [
        "identity,group\nAnn,dark\nZoë Lind,light\n",
        "identity,group\r\nAnn,dark\r\nZoë Lind,light\r\n",
        "identity,group\rAnn,dark\rZoë Lind,light",
        "\nidentity,group\n\nAnn,dark\n   \n,\nZoë Lind,light\n\n\n",
        '"identity","group"\n"Ann","dark"\n"Zoë  Lind",light\n',
        "identity;group\nAnn;dark\nZoë Lind;light\n",
        "identity\tgroup\nAnn\tdark\nZoë Lind\tlight\n",
        " Identity , Group \n Ann , dark \n Zoe\u0308 Lind , light \n",
        'group,note,identity\ndark,,Ann\nlight,"a, b",Zoë Lind\n',
        "identity,group\nAnn,dark\nZoë Lind,light\nAnn,dark\n",
    ],
)
def test_variants_of_the_file_give_the_same_groups(
    tmp_path: Path, text: str, encoding: str
) -> None:
    found = read_groups(write(tmp_path, text, encoding), KNOWN)
    assert found.groups == GROUPS
    assert found.unusable == []


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "identity,group"),
        ("Ann,dark\nBo,light\n", 1, "must name the columns, identity,group"),
        ("identity,tribe\nAnn,dark\n", 1, "must name the columns"),
        ("identity,group,group\nAnn,dark,light\n", 1, "must name the columns"),
        ("identity,group\nAnn\n", 2, "has 1 fields; identity, group are needed"),
        ("identity,group\nBo,light\n\nAnn,dark,old\n", 4, "has 3 fields"),
        ("identity,group\nBo,light\n,dark\n", 3, "has no identity"),
        ("identity,group\nBo,light\nAnn,  \n", 3, "has no group; leave out"),
        ("identity,group\nAnn,dark\nBo,dark\nAnn,light\n", 4, "'dark'; a person is in one group"),
        ('identity,group\nAnn,"dark\nBo,light\n', 2, "no row of a CSV file"),
        ('identity,group\nAnn,"dark"er\n', 2, "no row of a CSV file"),
        ("identity,group\nAnn,da\u200brk\n", 2, "U+200B"),
        (f"identity,group\nAnn,{'x' * 65}\n", 2, "at most 64"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, reason: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        read_groups(path, KNOWN)
    assert caught.value.field.startswith(f"{path}: line {line}")
    assert reason in caught.value.reason


def test_lines_are_counted_over_quoted_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path, 'identity,group\n"Zoë\nLind",light\nAnn,\n')
    with pytest.raises(InvalidInput) as caught:
        read_groups(path, KNOWN)
    assert caught.value.field == f"{path}: line 4"


def test_people_who_are_not_there_are_named_once(tmp_path: Path) -> None:
    rows = "".join(f"who{number},dark\n" for number in range(5))
    found = read_groups(write(tmp_path, f"identity,group\nAnn,dark\n{rows}"), KNOWN)
    assert found.groups == {"Ann": "dark"}
    [error] = found.unusable
    assert error.field == str(tmp_path / "groups.csv")
    assert "'who0' (line 3), 'who1' (line 4), 'who2' (line 5) and 2 more" in error.reason


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_bytes(b"identity,group\nAnn,\xff\xfe")
    with pytest.raises(InvalidInput, match="cannot be read as text"):
        read_groups(tmp_path / "groups.csv", KNOWN)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    groups = {"Zoë Lind": "a, b", "Ann": 'so-called "dark"'}
    write_groups(tmp_path / "groups.csv", groups)
    assert read_groups(tmp_path / "groups.csv", KNOWN).groups == groups


def test_a_folder_without_the_file_has_no_groups(tmp_path: Path) -> None:
    assert folder_groups(tmp_path, KNOWN) == ({}, [])


def test_the_file_is_no_identity_and_no_image(tmp_path: Path) -> None:
    people(tmp_path, {"Ann": 2, "Bo": 1})
    write(tmp_path, "identity,group\nAnn,dark\n")
    found = read_identities(tmp_path)
    assert (list(found.images), found.unusable) == (["Ann", "Bo"], [])
    assert len(find_images(tmp_path).images) == 3
    assert folder_groups(tmp_path, found.images).groups == {"Ann": "dark"}


def test_another_thing_with_its_name_is_refused_and_no_identity(tmp_path: Path) -> None:
    people(tmp_path, {"Ann": 2, "groups.csv": 2})
    assert list(read_identities(tmp_path).images) == ["Ann"]
    with pytest.raises(InvalidInput, match="is a folder, not a file"):
        folder_groups(tmp_path, ["Ann"])
    other = tmp_path / "other"
    people(other, {"Ann": 2})
    (other / "groups.csv").symlink_to(tmp_path / "absent.csv")
    assert read_identities(other).unusable == []
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        folder_groups(other, ["Ann"])
