"""What is kept of a client's address: nothing by default."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Final

V4_PREFIX: Final = 24
V6_PREFIX: Final = 48


class ClientIp(StrEnum):
    """How much of a client's address an upload's record holds."""

    NONE = "none"
    TRUNCATED = "truncated"
    FULL = "full"


def shown_ip(address: str, mode: ClientIp) -> str | None:
    """Return the address as the mode allows it: a /24 or /48 when truncated; None for no address."""
    if mode is ClientIp.NONE:
        return None
    try:
        ip = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    except ValueError:
        return None
    if mode is ClientIp.FULL:
        return str(ip)
    prefix = V4_PREFIX if ip.version == 4 else V6_PREFIX
    return str(ipaddress.ip_network((ip, prefix), strict=False).network_address)
