"""Plain FastAPI and onnxruntime, without batching.

Decoding and the network run on Starlette's threads, to keep the event loop free.
"""

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from tests.benchmarks.serving.peers.network import PORT, Network, decode

app = FastAPI()
network = Network()


@app.post("/embed")
async def embed(request: Request) -> Response:
    vector = await run_in_threadpool(_embed, await request.body())
    return Response(vector, media_type="application/octet-stream")


def _embed(jpeg: bytes) -> bytes:
    return network.embed([decode(jpeg)]).tobytes()


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
