"""Whether an address can be reached from this machine only."""

from ipaddress import ip_address
from typing import Final

_SCHEMES: Final = ("dns:", "ipv4:", "ipv6:")


def is_loopback(address: str) -> bool:
    """Say whether an address is that of this machine alone.

    Args:
        address: ``host:port``, or a gRPC target with one or several addresses. A name other than
            localhost is not looked up and counts as another machine.
    """
    if address.startswith("unix:"):
        return True
    scheme = next((one for one in _SCHEMES if address.startswith(one)), "")
    places = address.removeprefix(scheme).rpartition("/")[2].split(",")
    return all(_is_loopback_host(place.rpartition(":")[0] or place) for place in places)


def _is_loopback_host(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
