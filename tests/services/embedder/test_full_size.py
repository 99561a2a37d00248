"""Verify with the largest files that are accepted by default, on a real server."""

import io

import cv2
import pytest
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2
from PIL import Image

from shared.settings import ImageLimits
from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.serving import running_embedder
from tests.support.photographs import photograph

WIDTH, HEIGHT = 8160, 6144


def _full_size(**how: object) -> bytes:
    """A photograph of 50 megapixels, filled up to the largest file by metadata."""
    large = cv2.resize(
        photograph((5, 0, 190, 90, 240)), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR
    )
    file = io.BytesIO()
    Image.fromarray(large[..., ::-1]).save(file, "JPEG", quality=90, **how)
    data = file.getvalue()
    segment = b"\xff\xe5\xff\xff" + bytes(65533)
    count, rest = divmod(ImageLimits().image_max_bytes - len(data), len(segment))
    return data[:2] + segment * count + data[2:] + bytes(rest)


@pytest.mark.slow
@pytest.mark.usefixtures("published")
async def test_verify_of_two_of_the_largest_files(embedder_settings):
    baseline, progressive = _full_size(), _full_size(progressive=True, subsampling=0)
    assert len(baseline) == len(progressive) == ImageLimits().image_max_bytes
    a, b = (
        pb.VerifySide(image=image_pb2.Image(data=data, alignment=image_pb2.ALIGNMENT_DETECT))
        for data in (baseline, progressive)
    )
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(VERSIONS[0])
        answer = await client.stub.Verify(pb.VerifyRequest(a=a, b=b), timeout=60)
    assert answer.decision == pb.DECISION_SAME
    assert answer.similarity > 0.99
