"""Connections of a server: how many there may be, and the bytes that each has received."""

import resource
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from struct import unpack_from

_DESCRIPTORS = Path("/proc/self/fd")
# Place of tcpi_bytes_received in struct tcp_info, since Linux 4.1.
_BYTES_RECEIVED = 128
_TCP_INFO_BYTES = 136
_MOST_FILES = 65_536


def allow_many_connections() -> None:
    """Let this process open as many files, and so connections, as the system allows it.

    The usual soft limit of 1,024 is for programs that use select(). A thousand idle connections
    would lock everybody else out.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def received_bytes(port: int) -> dict[str, int]:
    """Read how many bytes each connection to a port of this process has received so far.

    gRPC does not tell how much of an unfinished message has arrived; the kernel does.

    Args:
        port: The port of the server.

    Returns:
        The bytes by the name that `grpc.aio.ServicerContext.peer` has for the connection. Empty
        where the system does not count them, i.e. anywhere but on Linux.
    """
    return dict(_connections(port))


def _connections(port: int) -> Iterator[tuple[str, int]]:
    if not _DESCRIPTORS.exists():
        return
    for descriptor in _DESCRIPTORS.iterdir():
        # A descriptor may be closed meanwhile, or be no TCP connection.
        with suppress(OSError):
            connection = socket.socket(fileno=int(descriptor.name))
            try:
                if _is_tcp(connection) and connection.getsockname()[1] == port:
                    yield _name(*connection.getpeername()[:2]), _received(connection)
            finally:
                connection.detach()


def _is_tcp(connection: socket.socket) -> bool:
    inet = connection.family in (socket.AF_INET, socket.AF_INET6)
    return inet and connection.type == socket.SOCK_STREAM


def _received(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    if len(info) < _TCP_INFO_BYTES:
        raise OSError("this kernel does not count the bytes of a connection")
    (received,) = unpack_from("Q", info, _BYTES_RECEIVED)
    return int(received)


def _name(host: str, port: int) -> str:
    address = ip_address(host)
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return f"ipv6:%5B{host.replace('%', '%25')}%5D:{port}"
        address = address.ipv4_mapped
    return f"ipv4:{address}:{port}"
