"""A grpc.aio server that decodes the JPEG and returns 2 KB: the upper bound for an embedder.

``python -m tests.benchmarks.serving.servers.plain_server PORT``
"""

import sys

import cv2
import grpc
import numpy as np
import uvloop
from grpc_health.v1 import health, health_pb2_grpc
from magface.v1 import embedder_pb2 as pb
from magface.v1 import embedder_pb2_grpc


class _Plain(embedder_pb2_grpc.EmbedderServiceServicer):
    async def Embed(  # noqa: N802
        self,
        request: pb.EmbedRequest,
        context: grpc.aio.ServicerContext,  # noqa: ARG002
    ) -> pb.EmbedResponse:
        answers = []
        for image in request.images:
            picture = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR)
            answers.append(pb.FaceEmbedding(embedding=picture.reshape(-1)[:2048].tobytes()))
        return pb.EmbedResponse(faces=answers, model_version="plain")


async def _serve(port: int) -> None:
    server = grpc.aio.server()
    embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(_Plain(), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
