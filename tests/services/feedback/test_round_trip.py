import time
from collections.abc import Callable

import grpc
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2

from tests.services.feedback.support.helpers import Stored, known, picture, request, sent, sha256

Stub = feedback_pb2_grpc.FeedbackServiceStub


async def _export(stub: Stub) -> list[pb.LabelledPair]:
    return [pair async for part in stub.ExportPairs(pb.ExportPairsRequest()) for pair in part.pairs]


async def test_feedback_comes_back_from_every_call(stub: Stub) -> None:
    opinion = pb.ModelOpinion(model_version="iresnet18-0", similarity=0.3, threshold=0.4)
    before = time.time()
    answer = await stub.SubmitFeedback(request(1, 2, opinion=opinion))
    low, high = sorted((sha256(1), sha256(2)))

    assert (answer.sha256_a, answer.sha256_b, answer.created) == (sha256(1), sha256(2), True)

    image = await stub.GetImage(pb.GetImageRequest(sha256=sha256(1).upper()))
    assert image.image.data == picture(1)
    assert image.image.alignment == image_pb2.ALIGNMENT_ALIGNED
    assert before - 1 <= image.stored_at.ToDatetime().timestamp() - time.timezone <= time.time() + 1

    (pair,) = (await stub.ListPairs(pb.ListPairsRequest())).pairs
    assert pair.pair_id == answer.pair_id
    assert (pair.sha256_a, pair.sha256_b) == (low, high)
    assert (pair.consensus, pair.confidence) == (pb.LABEL_SAME, 1.0)
    assert (pair.votes_same, pair.votes_different, pair.votes_unsure) == (1, 0, 0)

    (exported,) = await _export(stub)
    assert (exported.sha256_a, exported.sha256_b, exported.label) == (low, high, pb.LABEL_SAME)
    assert list(exported.votes) == [pb.Vote(annotator="ann", label=pb.LABEL_SAME)]

    assert await stub.GetStats(pb.GetStatsRequest()) == pb.GetStatsResponse(
        images=2, pairs=1, labels=1, annotators=1, pairs_same=1
    )


async def test_landmarks_come_back_exactly_as_they_were_sent(stub: Stub) -> None:
    points = [(38.3, 51.7), (73.5, 51.5), (56.1, 71.7), (41.6, 92.4), (70.7, 92.2)]
    image = image_pb2.Image(
        data=picture(7, 200), landmarks=[image_pb2.Point(x=x, y=y) for x, y in points]
    )
    answer = await stub.SubmitFeedback(request(image_a=pb.ImageRef(image=image)))
    back = await stub.GetImage(pb.GetImageRequest(sha256=answer.sha256_a))
    assert back.image.alignment == image_pb2.ALIGNMENT_LANDMARKS
    assert list(back.image.landmarks) == list(image.landmarks)


async def test_an_image_to_be_detected_is_stored_where_there_is_no_detector(stub: Stub) -> None:
    image = image_pb2.Image(data=picture(7, 300), alignment=image_pb2.ALIGNMENT_DETECT)
    answer = await stub.SubmitFeedback(request(image_a=pb.ImageRef(image=image)))
    back = await stub.GetImage(pb.GetImageRequest(sha256=answer.sha256_a))
    assert back.image == image


async def test_a_pair_and_its_mirror_image_are_one(stub: Stub) -> None:
    first = await stub.SubmitFeedback(request(1, 2, annotator="ann"))
    second = await stub.SubmitFeedback(
        request(image_a=known(2), image_b=known(1), annotator="bob", label=pb.LABEL_DIFFERENT)
    )
    assert second.pair_id == first.pair_id
    (pair,) = (await stub.ListPairs(pb.ListPairsRequest())).pairs
    assert (pair.votes_same, pair.votes_different) == (1, 1)
    assert pair.consensus == pb.LABEL_UNSPECIFIED


async def test_the_same_image_sent_often_is_one_object(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    for number in range(2, 22):
        await stub.SubmitFeedback(request(1, number))
    await stub.SubmitFeedback(request(image_a=sent(1), image_b=known(2), annotator="bob"))
    counts = stored()
    assert (counts.images, counts.objects, counts.pairs, counts.labels) == (21, 21, 20, 21)


async def test_the_same_bytes_with_other_landmarks_are_refused(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    await stub.SubmitFeedback(request(1, 2))
    before = stored()
    other = image_pb2.Image(data=picture(1), alignment=image_pb2.ALIGNMENT_DETECT)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.SubmitFeedback(request(image_a=pb.ImageRef(image=other), image_b=sent(3)))
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert "image_a.image" in str(refused.value.details())
    assert stored() == before


async def test_export_of_nothing_still_names_its_snapshot(stub: Stub) -> None:
    (part,) = [part async for part in stub.ExportPairs(pb.ExportPairsRequest())]
    assert part.snapshot_id
    assert not part.pairs
