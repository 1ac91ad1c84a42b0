"""A name server of our own on loopback, over UDP and TCP: records that a test sets, faults, and what was asked."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

SMALLEST_UDP_BYTES = 512


@dataclass
class NameServer:
    """Answers from `records`, by name and type; what it does not know does not exist.

    `rcode` is what it answers to all, None for the truth. A `silent` one says nothing. `additional` are names whose
    addresses go along with SRV records. `cut`: each answer says that it is not whole. `asked` has type and transport of
    each question.
    """

    records: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    ttl_s: int = 0
    rcode: dns.rcode.Rcode | None = None
    silent: bool = False
    additional: frozenset[str] = frozenset()
    cut: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""

    def has(self, name: str, kind: str, *values: str) -> None:
        self.records[dns.name.from_text(name).to_text(), kind] = values

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        (question,) = query.question
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((kind, transport))
        if self.silent:
            return None
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA | (dns.flags.TC if self.cut else 0)
        name = question.name.to_text()
        if self.rcode is not None:
            response.set_rcode(self.rcode)
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        else:
            self._fill(response.answer, name, kind)
            for each in sorted(self.additional):
                for address in ("A", "AAAA"):
                    self._fill(response.additional, dns.name.from_text(each).to_text(), address)
        limit = 65_535 if transport == "tcp" else max(SMALLEST_UDP_BYTES, query.payload)
        made = response.to_wire(max_size=65_535)
        if len(made) <= limit:
            return made
        short = dns.message.make_response(query)
        short.flags |= dns.flags.TC
        return short.to_wire()

    def _fill(self, section: list[dns.rrset.RRset], name: str, kind: str) -> None:
        values = self.records.get((name, kind))
        if values:
            section.append(dns.rrset.from_text(name, self.ttl_s, "IN", kind, *values))


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # which it does not say of itself

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._server.answer(data, "udp")
        if answer is not None:
            self._transport.sendto(answer, addr)


@contextlib.asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """Yield a server on a port of its own."""
    server, loop = NameServer(), asyncio.get_running_loop()

    async def over_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            length = int.from_bytes(await reader.readexactly(2), "big")
            answer = server.answer(await reader.readexactly(length), "tcp")
            if answer is not None:
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        writer.close()

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind(("127.0.0.1", 0))  # TCP first: of UDP almost every port is free
        port = listening.getsockname()[1]
        tcp = await asyncio.start_server(over_tcp, sock=listening)
        transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(server), local_addr=("127.0.0.1", port))
        server.address = f"127.0.0.1:{port}"
        try:
            yield server
        finally:
            transport.close()
            tcp.close()
            await tcp.wait_closed()
