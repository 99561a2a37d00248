"""The embedder refuses every text that breaks its rule in the contract."""

import grpc
import pytest
from google.rpc import code_pb2
from magface.v1 import embedder_pb2 as pb

from tests.services.embedder.conftest import VERSIONS
from tests.services.embedder.faces import crops, image
from tests.services.embedder.serving import running_embedder
from tests.support.texts import NOT_UTF8, bad_texts, refusal

BAD = bad_texts(pb.DESCRIPTOR.services_by_name["EmbedderService"])
# A bad text in a message of a stream does not end the stream if the message can be parsed.
ANSWERED = [bad for bad in BAD if bad.method.name == "EmbedStream" and bad.what != NOT_UTF8]


@pytest.fixture
async def client(embedder_settings, published):  # noqa: ARG001
    async with running_embedder(embedder_settings) as client:
        await client.until_serving(VERSIONS[0])
        yield client


async def test_a_bad_text_in_any_field_is_refused_by_name(client):
    ending = [bad for bad in BAD if bad not in ANSWERED]
    found = {str(bad): await refusal(client.channel, bad) for bad in ending}
    assert found == {str(bad): (grpc.StatusCode.INVALID_ARGUMENT, bad.field) for bad in ending}


async def test_a_bad_text_in_a_stream_is_an_error_of_its_message_alone(client):
    requests = [pb.EmbedStreamRequest.FromString(bad.data) for bad in ANSWERED]
    (crop,) = crops(1)
    requests.append(pb.EmbedStreamRequest(id="good", image=image(crop)))
    answers = [a async for a in client.stub.EmbedStream(iter(requests), timeout=20)]
    assert len(answers) == len(requests)
    assert [a.id for a in answers if a.HasField("face")] == ["good"]
    errors = sorted((a.id, a.error.message.partition(":")[0]) for a in answers if a.id != "good")
    assert errors == sorted(
        (request.id, bad.field) for request, bad in zip(requests, ANSWERED, strict=False)
    )
    assert {a.error.code for a in answers if a.id != "good"} == {code_pb2.INVALID_ARGUMENT}
