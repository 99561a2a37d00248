"""gRPC channels to the contract's services, all with the same retry policy."""

import json
from typing import Any

import grpc

from shared.rpc.retries import is_retryable, services

_MAX_MESSAGE_BYTES = 64 * 2**20

_RETRY_POLICY: dict[str, Any] = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    # RESOURCE_EXHAUSTED is also what a message above the limit gets.
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def _service_config() -> dict[str, Any]:
    """Make the gRPC service config; methods that it does not name are never retried."""
    repeatable = [
        {"service": service.full_name, "method": method.name}
        for service in services()
        for method in service.methods
        if is_retryable(method)
    ]
    return {
        # Health is checked by this policy alone.
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [{"name": repeatable, "retryPolicy": _RETRY_POLICY}],
    }


_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.service_config", json.dumps(_service_config())),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # A server that restarts is found again in a moment, not after minutes of back-off.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A peer that is frozen or cut off is noticed within half a minute while a call waits
    # for it. The pings' own timeout counts; the keepalive's is not heeded by gRPC 1.85.
    # Shorter, and a machine that is merely starved of processor time looks frozen.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
]


def open_channel(address: str) -> grpc.aio.Channel:
    """Open an asyncio channel.

    Calls go round the healthy replicas behind the address. A call that ends UNAVAILABLE is
    tried up to five times within about two seconds, if the contract marks its method
    IDEMPOTENT or NO_SIDE_EFFECTS; set an idempotency key where the request has one. Give each
    call a ``timeout``: the channel sets none.

    Args:
        address: ``host:port``, or any gRPC target such as ``dns:///embedder:50051``.
    """
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def open_sync_channel(address: str) -> grpc.Channel:
    """Open a blocking channel with the policy of `open_channel`."""
    return grpc.insecure_channel(address, options=_OPTIONS)
