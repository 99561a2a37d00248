"""LitServe with its batching; requests are JSON, with the image in base64."""

import base64

import litserve as ls
import numpy as np
from fastapi import Response

from tests.benchmarks.serving.peers.network import BATCH, PORT, Network, decode


class Faces(ls.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.network = Network()

    def decode_request(self, request: dict) -> np.ndarray:
        return decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list) -> list:
        return inputs

    def predict(self, x: list) -> np.ndarray:
        return self.network.embed(x)

    def unbatch(self, output: np.ndarray) -> list:
        return list(output)

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    api = Faces(max_batch_size=BATCH, batch_timeout=0.005, api_path="/embed")
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
