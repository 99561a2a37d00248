"""KServe's Python server, with its binary protocol.

Its batcher is a separate container in Kubernetes and not part of the Python package, so each
request is computed alone.
"""

import asyncio
import logging
from uuid import uuid4

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from tests.benchmarks.serving.peers.network import PORT, Network, decode


class Faces(Model):
    def __init__(self) -> None:
        super().__init__("faces")
        self.network = Network()
        self.ready = True

    async def predict(self, payload: InferRequest, *_: object, **__: object) -> InferResponse:
        jpeg = payload.inputs[0].as_numpy().tobytes()
        vectors = await asyncio.to_thread(lambda: self.network.embed([decode(jpeg)]))
        output = InferOutput("embedding", list(vectors.shape), "FP32")
        output.set_data_from_numpy(vectors, binary_data=True)
        return InferResponse(str(uuid4()), self.name, [output])


if __name__ == "__main__":
    server = ModelServer(http_port=PORT, enable_grpc=False, enable_latency_logging=False)
    # No server in the comparison logs its calls.
    for name in ("uvicorn.access", "kserve.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    server.start([Faces()])
