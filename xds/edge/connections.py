"""Resets TCP connections by the address of their other end; grpc cannot end a call while its client does not read."""

import ipaddress
import os
import socket
import struct
from collections.abc import Collection
from typing import Any
from urllib.parse import unquote

DESCRIPTORS = "/dev/fd"
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # what was not sent is dropped, and not kept for a peer that takes nothing


def reset(port: int, peers: Collection[str] | None = None) -> int:
    """Reset this process's connections between a port of its own and these peers, or all; return how many there were.

    Peers are written as grpc does: `ipv4:10.0.0.1:4711`, `ipv6:%5B::1%5D:4711`.
    """
    wanted = None if peers is None else {_endpoint(peer) for peer in peers}
    return sum(_reset(int(name), port, wanted) for name in os.listdir(DESCRIPTORS))  # noqa: PTH208 - no paths


def _reset(descriptor: int, port: int, wanted: Collection[tuple[str, int]] | None) -> bool:
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:  # no socket, or closed meanwhile
        return False
    try:
        found = _named(connection.getsockname(), connection.getpeername())
        if found is None or found[0] != port or (wanted is not None and found[1] not in wanted):
            return False
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # not connected any more
        return False
    finally:
        connection.detach()  # its owner closes it
    return True


def _named(own: Any, peer: Any) -> tuple[int, tuple[str, int]] | None:
    """Return our port and the peer; None for what is no TCP, whose addresses are no tuples."""
    if not isinstance(own, tuple) or not isinstance(peer, tuple):
        return None
    return own[1], (_host(peer[0]), peer[1])


def _endpoint(peer: str) -> tuple[str, int]:
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return _host(host.strip("[]")), int(port)


def _host(text: str) -> str:
    address = ipaddress.ip_address(text.partition("%")[0])  # a link-local address has its interface behind a %
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
