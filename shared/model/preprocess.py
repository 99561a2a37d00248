"""From the bytes of a picture to what the network is fed."""

import io
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from shared.errors import InvalidInput
from shared.model.jpeg import decode_plain_jpeg
from shared.model.manifest import ChannelOrder
from shared.settings import ImageLimits

CROP_SIZE: Final = 112
LANDMARK_COUNT: Final = 5
# Left eye, right eye, nose, left and right mouth corner, as they appear in the picture.
ARCFACE_TEMPLATE: Final[NDArray[np.float32]] = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float32,
)

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
_ORIENTATION_TAG: Final = 0x0112
_SIXTEEN_BIT_MODES: Final = ("I;16", "I;16B", "I;16L", "I;16N", "I")
# Type and checksum of the chunk that closes every PNG.
_PNG_END: Final = b"IEND\xae\x42\x60\x82"


def decode_image(data: bytes, limits: ImageLimits, field: str = "data") -> NDArray[np.uint8]:
    """Decode one picture the way ``cv2.imread`` would, but strictly.

    Size and pixel count are checked before anything is decompressed. The EXIF
    orientation is applied, grey is spread over three channels, alpha is dropped
    and 16-bit samples keep their high byte. Of an animation the first frame is taken.

    Args:
        data: A JPEG, PNG, WebP or BMP file.
        limits: Largest encoded size and pixel count.
        field: What the caller's contract calls ``data``, for the error.

    Returns:
        uint8 array of shape (height, width, 3), channels in BGR order.

    Raises:
        InvalidInput: If it is empty, too large, not such a file, truncated or damaged.
    """
    if not data:
        raise InvalidInput(field, "is empty; a JPEG, PNG, WebP or BMP picture is needed")
    if len(data) > limits.image_max_bytes:
        raise InvalidInput(
            field, f"has {len(data)} bytes; at most {limits.image_max_bytes} are accepted"
        )
    plain = decode_plain_jpeg(data, limits.image_max_pixels, field)
    if plain is not None:
        return plain
    with _open_header(data, field) as picture:
        _check_pixels(picture, limits, field)
        return _decode_pixels(picture, data, field)


def _open_header(data: bytes, field: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(field, f"has too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        start = data[:8].hex(" ")
        raise InvalidInput(
            field,
            f"is not a readable JPEG, PNG, WebP or BMP picture (it starts with bytes {start})",
        ) from error
    # Parsers of hostile headers fail in many ways; each means that the file is broken.
    except Exception as error:
        raise InvalidInput(field, f"has a damaged header: {error}") from error


def _check_pixels(picture: Image.Image, limits: ImageLimits, field: str) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise InvalidInput(field, f"is a picture of {width}x{height} pixels")
    if width * height > limits.image_max_pixels:
        raise InvalidInput(
            field,
            f"is a picture of {width}x{height} = {width * height} pixels; "
            f"at most {limits.image_max_pixels} are accepted",
        )


def _decode_pixels(picture: Image.Image, data: bytes, field: str) -> NDArray[np.uint8]:
    try:
        picture.load()
    except Exception as error:
        raise InvalidInput(
            field, f"is a truncated or damaged {picture.format} file: {error}"
        ) from error
    if picture.format == "PNG" and _PNG_END not in data:
        raise InvalidInput(field, "is a truncated PNG file: its closing IEND chunk is missing")
    if picture.mode in _SIXTEEN_BIT_MODES:
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if _orientation(picture) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    return np.asarray(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR), dtype=np.uint8)


def _orientation(picture: Image.Image) -> Any:
    try:
        return picture.getexif().get(_ORIENTATION_TAG, 1)
    # A broken EXIF block does not make the pixels unusable; cv2 ignores it too.
    except Exception:
        return 1


def check_landmarks(landmarks: ArrayLike, field: str = "landmarks") -> NDArray[np.float32]:
    """Make sure that these are five finite points that span an area.

    Args:
        landmarks: Shape (5, 2), x and y in pixels.
        field: What the caller's contract calls them, for the error.

    Returns:
        The same as a float32 array of shape (5, 2).

    Raises:
        InvalidInput: If they are not.
    """
    points = np.asarray(landmarks, dtype=np.float32)
    if points.shape != (LANDMARK_COUNT, 2):
        given = points.shape[0] if points.ndim else 0
        raise InvalidInput(
            field,
            f"has {given} points; exactly 5 are needed: "
            "left eye, right eye, nose, left and right mouth corner",
        )
    if not np.isfinite(points).all():
        raise InvalidInput(field, "has a coordinate that is not a finite number")
    if float(np.ptp(points, axis=0).min()) < 1.0:
        raise InvalidInput(field, "all lie within one pixel of a line; they must span a face")
    return points


def similarity_transform(
    source: NDArray[np.float32], target: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Least-squares rotation, uniform scale and shift that takes source to target.

    Umeyama (1991) without reflections; in the plane it is one complex division.

    Args:
        source: Shape (N, 2), not all equal.
        target: Shape (N, 2).

    Returns:
        Affine matrix of shape (2, 3) for ``cv2.warpAffine``.
    """
    a = source.astype(np.float64) @ np.array([1, 1j])
    b = target.astype(np.float64) @ np.array([1, 1j])
    from_centre, to_centre = a - a.mean(), b - b.mean()
    turn = np.vdot(from_centre, to_centre) / np.vdot(from_centre, from_centre)
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def align_face(
    image: NDArray[np.uint8], landmarks: ArrayLike, field: str = "landmarks"
) -> NDArray[np.uint8]:
    """Cut a face out so that its landmarks lie on the ArcFace template.

    Args:
        image: uint8, shape (height, width, 3).
        landmarks: Shape (5, 2), in pixels of ``image``, in the template's order.
        field: What the caller's contract calls them, for the error.

    Returns:
        uint8 crop of shape (112, 112, 3); black where it reaches over the picture's edge.

    Raises:
        InvalidInput: If the landmarks are unusable or lie outside the picture.
    """
    points = check_landmarks(landmarks, field)
    height, width = image.shape[:2]
    centre_x, centre_y = points.mean(axis=0)
    if not (0 <= centre_x < width and 0 <= centre_y < height):
        raise InvalidInput(
            field,
            f"lie around ({centre_x:.0f}, {centre_y:.0f}), outside the {width}x{height} picture",
        )
    matrix = similarity_transform(points, ARCFACE_TEMPLATE)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:
        # Bilinear sampling below half size skips pixels; average them first.
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        ratio = np.array([size[0] / width, size[1] / height], dtype=np.float32)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        # Pixel centres, not corners, carry the coordinates.
        points = (points + 0.5) * ratio - 0.5
        matrix = similarity_transform(points, ARCFACE_TEMPLATE)
    return np.asarray(cv2.warpAffine(image, matrix, (CROP_SIZE, CROP_SIZE)), dtype=np.uint8)


def network_input(
    crops: NDArray[np.uint8], channel_order: ChannelOrder, scale: float = 1 / 255
) -> NDArray[np.float32]:
    """Lay crops out as the network reads them.

    Args:
        crops: uint8, shape (N, 112, 112, 3), BGR.
        channel_order: The order the network was trained with.
        scale: What each pixel is multiplied by.

    Returns:
        float32, contiguous, shape (N, 3, 112, 112).
    """
    if channel_order == "rgb":
        crops = crops[..., ::-1]
    planes = np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
    return np.multiply(planes, np.float32(scale), dtype=np.float32)
