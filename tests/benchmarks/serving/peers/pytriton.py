"""PyTriton: Triton's dynamic batcher in front of a Python function."""

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from tests.benchmarks.serving.peers.network import BATCH, PORT, Network, decode

network = Network()


@batch
def embed(image: np.ndarray) -> dict[str, np.ndarray]:
    return {"embedding": network.embed([decode(each) for each in image[:, 0]])}


if __name__ == "__main__":
    ports = TritonConfig(
        http_address="127.0.0.1", http_port=PORT, allow_grpc=False, allow_metrics=False
    )
    with Triton(config=ports) as triton:
        triton.bind(
            model_name="faces",
            infer_func=embed,
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="embedding", dtype=np.float32, shape=(512,))],
            config=ModelConfig(max_batch_size=BATCH, batcher=DynamicBatcher()),
        )
        triton.serve()
