"""Prometheus metrics of the embedder; those of its RPCs are in shared.rpc.server.metrics."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

BATCH_IMAGES: Final = Histogram(
    "magface_embedder_batch_images",
    "Images computed in one batch",
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
ENGINE_SECONDS: Final = Histogram(
    "magface_embedder_engine_seconds",
    "Time the engine took for one batch",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
IMAGES_IN_FLIGHT: Final = Gauge(
    "magface_embedder_images_in_flight", "Images admitted and not yet answered"
)
DROPPED_IMAGES: Final = Counter(
    "magface_embedder_dropped_images_total",
    "Images dropped before they were computed, by reason",
    ["why"],
)
SWAPS: Final = Counter(
    "magface_embedder_swaps_total",
    "Attempts to change the serving version, by outcome",
    ["outcome"],
)
SWAP_FAILING: Final = Gauge(
    "magface_embedder_swap_failing",
    "1 while the version of the serving pointer cannot be loaded",
)
REGISTRY_REACHABLE: Final = Gauge(
    "magface_embedder_registry_reachable", "1 while the serving pointer can be read"
)
SERVING: Final = Gauge("magface_embedder_serving", "1 for the serving version", ["model_version"])
TARGET_FMR: Final = Gauge(
    "magface_embedder_target_fmr", "False-match rate that the operator has set; 0 if none"
)
KEPT_FMR: Final = Gauge(
    "magface_embedder_kept_fmr",
    "False-match rate that the serving threshold keeps; 0 without a target or a measured curve",
)
_CACHE_IMAGES: Final = Counter(
    "magface_embedder_cache_images_total",
    "Requested images: found in the cache, shared with a call in progress, or computed",
    ["outcome"],
)
CACHE_HITS: Final = _CACHE_IMAGES.labels("hit")
CACHE_JOINED: Final = _CACHE_IMAGES.labels("joined")
CACHE_MISSES: Final = _CACHE_IMAGES.labels("miss")
CACHE_BYTES: Final = Gauge("magface_embedder_cache_bytes", "Memory taken by cached embeddings")
SHADOW_PAIRS: Final = Counter(
    "magface_embedder_shadow_pairs_total",
    "Comparisons sampled for the shadow candidate: agreed, disagreed, failed, or dropped",
    ["outcome"],
)
SHADOW_SECONDS: Final = Histogram(
    "magface_embedder_shadow_seconds",
    "Time the shadow candidate took for one image, on a thread of low priority",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
SHADOW_AGREEMENT: Final = Gauge(
    "magface_embedder_shadow_agreement",
    "Share of comparisons that the shadow candidate decides as the serving version",
)
SHADOW_SHIFT: Final = Gauge(
    "magface_embedder_shadow_similarity_shift",
    "Mean similarity of the shadow candidate minus that of the serving version",
)
