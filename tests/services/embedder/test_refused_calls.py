"""Refused calls: nothing of them stays in memory."""

import gc

import grpc
import pytest
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2

from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.serving import running_embedder
from tests.shared.decoding.hostile import flat_png


@pytest.mark.usefixtures("published")
async def test_a_refused_call_leaves_no_request_behind(embedder_settings):
    picture = image_pb2.Image(data=flat_png(7000, 7000), alignment=image_pb2.ALIGNMENT_ALIGNED)
    too_many, damaged = [picture] * 9, [image_pb2.Image(data=b"no picture")]
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(VERSIONS[0])
        gc.collect()
        gc.disable()
        try:
            for images, reason in ((too_many, "441 megapixels"), (damaged, "is text")):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await client.embed(*images)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert reason in refused.value.details()
                # It refers to the request that the client has sent.
                del refused
            left = [each for each in gc.get_objects() if type(each) is pb.EmbedRequest]
            assert not left
        finally:
            gc.enable()
