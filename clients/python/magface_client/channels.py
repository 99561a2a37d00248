"""Addresses of the services, options of their channels, and the retry of calls."""

import json
import os
import random
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

import grpc

from magface_client.access import Access, AccessFiles, check_plain_text
from magface_client.errors import OverloadedError, ServiceError, UnavailableError

Service = Literal["embedder", "feedback", "trainer"]
Options: TypeAlias = list[tuple[str, Any]]
Metadata: TypeAlias = tuple[tuple[str, str], ...]
Opener: TypeAlias = Callable[[str, grpc.ChannelCredentials | None, Options], "_Channel"]

_Channel = TypeVar("_Channel")

DEFAULT_ADDRESSES: Final[Mapping[Service, str]] = {
    "embedder": "127.0.0.1:50051",
    "feedback": "127.0.0.1:50052",
    "trainer": "127.0.0.1:50053",
}
_MAX_MESSAGE_BYTES: Final = 64 * 2**20
# The first five pauses together last about three seconds: longer than a server needs to be
# replaced by another one, and short enough for a caller who named a wrong address.
_MOST_RETRIES: Final = 5
_FIRST_PAUSE_S: Final = 0.1


class ChannelSet(Generic[_Channel]):
    """The channels to the services, opened when they are first used. For any thread.

    gRPC keeps the certificates that a channel was opened with. When the files change, the next
    call gets a new channel, and calls on the old one end as they would have.

    Args:
        given: Addresses of the caller.
        access: What is shown to the services.
        open_channel: Opens a channel.
        retire: Receives a channel that no further call gets.

    Raises:
        ConfigurationError: If the access cannot be used, or would show the token in plain text.
    """

    def __init__(
        self,
        given: Mapping[Service, str | None],
        access: Access | None,
        open_channel: "Opener[_Channel]",
        retire: Callable[[_Channel], None],
    ) -> None:
        self.addresses = service_addresses(given)
        self._files = AccessFiles(Access.from_environment() if access is None else access)
        self._open = open_channel
        self._retire = retire
        self._lock = Lock()
        self._channels: dict[Service, tuple[grpc.ChannelCredentials | None, _Channel]] = {}
        self._closed = False

    def current(self, service: Service) -> tuple[_Channel, Metadata]:
        """Return the channel for the next call, and the call's metadata.

        Raises:
            RuntimeError: If the client is closed.
            ConfigurationError: If the token would be sent to another machine in plain text.
        """
        address = self.addresses[service]
        credentials, token = self._files.current()
        with self._lock:
            if self._closed:
                raise RuntimeError("the client is closed")
            known = self._channels.get(service)
            if known is None or known[0] is not credentials:
                check_plain_text(address, self._files)
                channel = self._open(address, credentials, channel_options(address))
                self._channels[service] = (credentials, channel)
                if known is not None:
                    self._retire(known[1])
            channel = self._channels[service][1]
        return channel, (("authorization", f"Bearer {token}"),) if token else ()

    def close(self) -> list[_Channel]:
        """Refuse further calls; returns the channels, which the caller closes."""
        with self._lock:
            self._closed = True
            channels = [channel for _, channel in self._channels.values()]
            self._channels.clear()
        return channels

    def name(self, service: Service) -> str:
        """Return a service with its address, for errors."""
        return f"{service} at {self.addresses[service]}"


def service_addresses(
    given: Mapping[Service, str | None], environment: Mapping[str, str] = os.environ
) -> dict[Service, str]:
    """Return the address of each service: as given, else by ``MAGFACE_EMBEDDER_ADDRESS`` and so
    on, else the port on this machine that `magface up` uses by default.
    """  # noqa: D205
    return {
        service: given.get(service) or environment.get(f"MAGFACE_{service.upper()}_ADDRESS") or own
        for service, own in DEFAULT_ADDRESSES.items()
    }


def channel_options(address: str) -> Options:
    """Return the gRPC options of a channel: calls are spread over the healthy replicas."""
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
    }
    options: Options = [
        ("grpc.service_config", json.dumps(config)),
        # `pause_before_retry` decides on retries, by the contract.
        ("grpc.enable_retries", 0),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        # Reconnect to a restarted server within about two seconds.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # While a call waits, a frozen or disconnected peer is detected within half a minute.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 20_000),
    ]
    scheme, _, places = address.partition(":")
    if scheme in ("ipv4", "ipv6") and "," in places:
        # gRPC would compare the whole list with the names in the certificate.
        options.append(("grpc.default_authority", places.split(",")[0].rpartition(":")[0]))
    return options


def pause_before_retry(error: ServiceError, retries: int, remaining_s: float) -> float | None:
    """Say how long to wait before a call is made again, in seconds.

    Args:
        error: How the call ended; it must be safe to repeat.
        retries: How often it was repeated already.
        remaining_s: What is left of its timeout.

    Returns:
        None if it must not be made again.
    """
    if not isinstance(error, UnavailableError | OverloadedError) or retries >= _MOST_RETRIES:
        return None
    pause = _FIRST_PAUSE_S * 2**retries * random.uniform(0.7, 1.3)  # noqa: S311
    if isinstance(error, OverloadedError):
        pause = max(pause, error.retry_after_s)
    return pause if pause < remaining_s else None
