"""Every file that is no readable picture is named as what it is, with what to do."""

import base64
import binascii
import codecs
import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import InvalidInput
from shared.model.image.decode import decode_image
from shared.settings import ImageLimits
from tests.shared.model.pictures import LIMITS, bmp_header, encode, png_header, scene

FIXTURES = Path(__file__).parents[1] / "fixtures" / "pictures"
FIELD = "images[3].data"
READABLE = "JPEG, PNG, WebP, HEIC, AVIF or BMP"


def saved(form: str, **how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(scene()[..., ::-1]).save(file, form, **how)
    return file.getvalue()


def box(kind: bytes, body: bytes = b"") -> bytes:
    """A box of an MP4 or of one of its kin."""
    return struct.pack(">I", 8 + len(body)) + kind + body


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, JPEG)
    return file.getvalue()


def numpy_file() -> bytes:
    file = io.BytesIO()
    np.save(file, scene())
    return file.getvalue()


JPEG = saved("JPEG")
PNG = encode(scene())
HEIC = (FIXTURES / "scene_orientation_1.heic").read_bytes()
BASE64 = base64.b64encode(JPEG)
SENT_AS_TEXT = {
    "base64": BASE64,
    "base64 of a PNG": base64.b64encode(PNG),
    "base64 of a HEIC": base64.b64encode(HEIC),
    "base64 in lines": base64.encodebytes(JPEG),
    "base64 with carriage returns": base64.encodebytes(JPEG).replace(b"\n", b"\r\n"),
    "base64 for addresses": base64.urlsafe_b64encode(saved("WEBP")),
    "base64 without padding": base64.b64encode(JPEG[:-1]).rstrip(b"="),
    "base64 in quotes": b'"' + BASE64 + b'"',
    "base64 as Python shows it": repr(BASE64).encode(),
    "base64 behind a byte order mark": codecs.BOM_UTF8 + BASE64,
    "base64 that was cut": BASE64[:101],
    "base64 of no picture": base64.b64encode(bytes(range(256))),
}

# What each is called, and what to do about it.
FILES: dict[str, tuple[bytes, str, str]] = {
    **{name: (text, "is base64 text", "decode it") for name, text in SENT_AS_TEXT.items()},
    "hexadecimal": (binascii.hexlify(JPEG), "is hexadecimal text", "decode it"),
    "data URI": (b"data:image/jpeg;base64," + BASE64, "is a data URI", "after its comma"),
    "data URI, upper case": (b"DATA:image/PNG;BASE64," + BASE64, "is a data URI", "comma"),
    "data URI, no type": (b"data:;base64," + BASE64, "is a data URI", "after its comma"),
    "data URI, charset": (b"data:image/png;charset=utf-8;base64," + BASE64, "data URI", "comma"),
    "address": (b"https://example.org/face.jpg", "is an address", "fetch the picture"),
    "GIF": (saved("GIF"), "is a GIF picture", f"save it as one of {READABLE}"),
    "TIFF": (saved("TIFF"), "is a TIFF", f"save it as one of {READABLE}"),
    "TIFF, big endian": (b"MM\0*" + bytes(40), "is a TIFF", f"save it as one of {READABLE}"),
    "icon": (saved("ICO"), "is an icon", f"save it as one of {READABLE}"),
    "JPEG 2000": (saved("JPEG2000"), "is a JPEG 2000 picture", "save it as one of"),
    "JPEG XL": (b"\xff\x0a" + bytes(40), "is a JPEG XL picture", "save it as one of"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing", "save it as"),
    "SVG with a prologue": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg/>', "SVG", "save it as"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page", "error page"),
    "web page behind spaces": (b"\n\n  <HTML><head></head>", "is a web page", "picture itself"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is XML", "send"),
    "PDF": (b"%PDF-1.7\n" + bytes(50), "is a PDF", "send the picture that is in it"),
    "JSON": (json.dumps({"error": "not found"}).encode(), "is JSON text", "send a JPEG"),
    "JSON array": (json.dumps([1, 2, 3]).encode(), "is JSON text", "send a JPEG"),
    "zip": (zipped("a.jpg", "b.jpg"), "is a zip archive", "unpack it"),
    "empty zip": (zipped(), "is an empty zip archive", "send a JPEG"),
    "gzip": (gzip.compress(JPEG), "is a gzip file", "unpack it"),
    "MP4": (box(b"ftyp", b"isom\0\0\2\0isomiso2mp41"), "is a video", "send one of its frames"),
    "QuickTime": (box(b"ftyp", b"qt  \0\0\0\0qt  "), "is a video", "send one of its frames"),
    "NumPy array": (numpy_file(), "is a NumPy array", "encode it as PNG"),
    "sound": (b"RIFF\x24\0\0\0WAVEfmt ", "is a RIFF file but no WebP", "send a JPEG"),
    "text": (b"Please find the picture attached.", "is text, which starts with", "send a JPEG"),
    "text, accents": ("Voilà une photo à étudier".encode(), "is text", "send a JPEG"),
    "UTF-8 of the bytes": (JPEG.decode("latin-1").encode(), "encoded as UTF-8", "unchanged"),
    "replaced bytes": (JPEG.decode(errors="replace").encode(), "read as text", "send a JPEG"),
    "empty": (b"", "is empty", READABLE),
    "two zeros": (bytes(2), "nothing but zeros in its 2 bytes", "send a JPEG"),
    "zeros": (bytes(5000), "nothing but zeros in its 5000 bytes", "send a JPEG"),
    "anything else": (bytes(range(1, 250)), "is not a JPEG, PNG", "starts with bytes 01 02 03"),
    "HEIC without its end": (HEIC[:-300], "is a HEIC file that is cut short", ""),
    "HEIC without its pixels": (HEIC[:300], "HEIC file", ""),
    "HEIC with zeros": (HEIC[:-900] + bytes(600) + HEIC[-300:], "damaged HEIC file", "zeros"),
    "HEIC of other bytes": (HEIC[:100] + bytes(range(250)), "HEIC file", ""),
}
CUT = {
    "JPEG": (JPEG, "is a JPEG file that is cut short"),
    "JPEG, progressive": (saved("JPEG", progressive=True), "is a JPEG file that is cut short"),
    "JPEG with EXIF": (saved("JPEG", exif=Image.Exif()), "is a JPEG file that is cut short"),
    "PNG": (PNG, "is a PNG file that is cut short"),
    "WebP": (saved("WEBP"), "is a WebP file that is cut short"),
    "WebP, lossless": (saved("WEBP", lossless=True), "is a WebP file that is cut short"),
    "AVIF": (saved("AVIF"), "is an AVIF file that is cut short"),
    "HEIC": (HEIC, "is a HEIC file that is cut short"),
    "BMP": (saved("BMP"), "is a BMP file that is cut short"),
}


def refusal(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(InvalidInput) as caught:
        decode_image(data, limits, FIELD)
    assert caught.value.field == FIELD
    return caught.value.reason


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_as_what_it_is_with_what_to_do(name: str) -> None:
    data, kind, advice = FILES[name]
    reason = refusal(data)
    assert kind in reason
    assert advice in reason
    # It goes into a header of HTTP/2, and onto a terminal.
    assert len(reason) < 300
    assert reason.isprintable()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", CUT)
def test_a_file_without_its_end_is_called_cut_short(name: str, share: float) -> None:
    data, expected = CUT[name]
    assert expected in refusal(data[: int(share * len(data))])


@pytest.mark.parametrize("name", CUT)
def test_limits_are_named_with_their_numbers_and_settings(name: str) -> None:
    data = CUT[name][0] + bytes(1025)
    reason = refusal(data, ImageLimits(image_max_pixels=112 * 112))
    assert "is a picture of 140x90 = 12600 pixels; at most 12544 are accepted" in reason
    assert "MAGFACE_IMAGE_MAX_PIXELS" in reason
    reason = refusal(data, ImageLimits(image_max_bytes=1024))
    assert f"has {len(data)} bytes; at most 1024 are accepted" in reason
    assert "MAGFACE_IMAGE_MAX_BYTES" in reason


@pytest.mark.parametrize("claim", [png_header, bmp_header])
def test_claims_of_a_size_without_pixels_are_cut_short(claim: Callable[[int, int], bytes]) -> None:
    assert "cut short" in refusal(claim(60_000, 60_000))
