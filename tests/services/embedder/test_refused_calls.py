"""Refused calls: nothing of them stays in memory."""

import gc

import grpc
import pytest
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2

from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.serving import running_embedder
from tests.shared.decoding.hostile import flat_png, png_above, run_length_bmp, slow_jpeg


def _aligned(data: bytes) -> image_pb2.Image:
    return image_pb2.Image(data=data, alignment=image_pb2.ALIGNMENT_ALIGNED)


@pytest.mark.usefixtures("published")
async def test_a_refused_call_leaves_no_request_behind(embedder_settings):
    calls = (
        ([flat_png(7000, 7000)] * 9, "441 megapixels"),
        ([flat_png(8160, 6144)] * 40, "2005 megapixels"),
        ([png_above(embedder_settings.image_max_pixels)] * 12, "MAGFACE_IMAGE_MAX_PIXELS"),
        ([run_length_bmp(7000, 7000)], "images[0].data"),
        ([slow_jpeg(7000, 7000, 300)], "images[0].data"),
        ([b"no picture"], "is text"),
    )
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(VERSIONS[0])
        gc.collect()
        gc.disable()
        try:
            for pictures, reason in calls:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await client.embed(*map(_aligned, pictures))
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert reason in refused.value.details()
                # It refers to the request that the client has sent.
                del refused
            left = [each for each in gc.get_objects() if type(each) is pb.EmbedRequest]
            assert not left
        finally:
            gc.enable()
