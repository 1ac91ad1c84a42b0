"""Clients that are old, broken or malicious: each gets its answer, and none of them holds up the others."""

import asyncio
import gzip
import time
import zlib
from pathlib import Path

import pytest
import structlog

from rollout.demo.processes import until
from tests.rollout.served import Running, running, settings_in

ADOPT, BODY = "/v1/services/checkout/adopt", b'{"version": "v1"}'
LIMIT_S = 20.0
BOMB_MIB = 800
BOMB_CPU_S = 1.0  # unpacked it would take four


async def sent(server: Running, request: bytes) -> bytes:
    """Send what is no client's usual request; return all that comes back until the server hangs up."""
    host, _, port = server.listening.admin.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        async with asyncio.timeout(LIMIT_S):
            return await reader.read()
    finally:
        writer.close()


async def hung_up(server: Running, request: bytes) -> None:
    """Send a request, or a part of it, and go away."""
    host, _, port = server.listening.admin.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    writer.close()
    await writer.wait_closed()


def post(server: Running, body: bytes, *headers: str) -> bytes:
    lines = (f"POST {ADOPT} HTTP/1.1", f"Host: {server.listening.admin}", "Content-Type: application/json", *headers)
    return "\r\n".join((*lines, "Connection: close", "", "")).encode() + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_old_ways_to_ask_are_answered(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server:
        host = f"Host: {server.listening.admin}\r\n".encode()
        assert (await sent(server, b"GET /healthz HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.0 200")
        head = await sent(server, b"HEAD /v1/services/checkout HTTP/1.0\r\n" + host + b"\r\n")
        assert (status(head), head.endswith(b"\r\n\r\n"), b"ETag: " in head) == (200, True, True)
        healthy = b"GET /healthz HTTP/1.1\r\n" + host + b"\r\n"
        three = await sent(server, healthy + healthy + b"GET /healthz HTTP/1.0\r\n\r\n")
        assert three.count(b'{"status": "ok"}') == 3
        stream = b"HEAD /v1/events HTTP/1.0\r\n" + host + b"Accept: text/event-stream\r\n\r\n"
        assert (await sent(server, stream)).endswith(b"\r\n\r\n")
        options = await sent(server, b"OPTIONS /v1/services HTTP/1.0\r\n" + host + b"\r\n")
        assert (status(options), b"Allow: GET,HEAD" in options) == (405, True)


async def test_a_body_may_come_in_pieces_and_after_a_question(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server:
        pieces = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in (BODY[:5], BODY[5:], b""))
        assert status(await sent(server, post(server, pieces, "Transfer-Encoding: chunked"))) == 200
        asked = post(server, BODY, f"Content-Length: {len(BODY)}", "Expect: 100-continue")
        assert [each.split(b" ")[1] for each in (await sent(server, asked)).split(b"HTTP/1.1")[1:]] == [b"100", b"200"]


@pytest.mark.parametrize("key", [(), ("Idempotency-Key: a",)], ids=["once", "with-key"])
@pytest.mark.parametrize("body", [gzip.compress(BODY), BODY], ids=["packed", "plain"])
async def test_a_packed_body_is_refused(tmp_path: Path, body: bytes, key: tuple[str, ...]) -> None:
    async with running(settings_in(tmp_path)) as server:
        said = await sent(server, post(server, body, "Content-Encoding: gzip", f"Content-Length: {len(body)}", *key))
        assert (status(said), b"Content-Encoding: " in said.partition(b"\r\n\r\n")[2]) == (400, True)


async def test_a_body_that_would_unpack_to_much_costs_nothing(tmp_path: Path) -> None:
    packing = zlib.compressobj(1, zlib.DEFLATED, 31)
    bomb = b"".join(packing.compress(bytes(2**20)) for _ in range(BOMB_MIB)) + packing.flush()
    async with running(settings_in(tmp_path)) as server:
        request = post(server, bomb, "Content-Encoding: gzip", f"Content-Length: {len(bomb)}")
        began_s = time.process_time()
        assert status(await sent(server, request)) == 400
        assert status(await sent(server, request.replace(ADOPT.encode(), b"/v1/nowhere", 1))) == 404
    assert time.process_time() - began_s < BOMB_CPU_S


@pytest.mark.parametrize("key", [(), ("Idempotency-Key: a",)], ids=["once", "with-key"])
async def test_who_hangs_up_in_the_midst_of_a_body_is_no_bug_of_ours(tmp_path: Path, key: tuple[str, ...]) -> None:
    async with running(settings_in(tmp_path)) as server:
        with structlog.testing.capture_logs() as lines:
            await hung_up(server, post(server, BODY[:5], f"Content-Length: {len(BODY)}", *key))

            async def answered() -> bool:
                return any(each["event"] == "request" for each in lines)

            await until(answered, within_s=LIMIT_S, what="the request to be over")
        assert [each["event"] for each in lines if each["log_level"] == "error"] == []
        whole = post(server, BODY, f"Content-Length: {len(BODY)}", *key)
        assert status(await sent(server, whole)) == 200


async def test_a_large_answer_is_packed_for_who_unpacks_it(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server:
        host = f"Host: {server.listening.admin}\r\nConnection: close\r\n"
        plain = await sent(server, f"GET /v1/openapi.json HTTP/1.1\r\n{host}\r\n".encode())
        packed = await sent(server, f"GET /v1/openapi.json HTTP/1.1\r\n{host}Accept-Encoding: gzip\r\n\r\n".encode())
        small = await sent(server, f"GET /v1/me HTTP/1.1\r\n{host}Accept-Encoding: gzip\r\n\r\n".encode())
        head, _, body = packed.partition(b"\r\n\r\n")
        assert b"Content-Encoding: gzip" in head
        assert gzip.decompress(body) == plain.partition(b"\r\n\r\n")[2]
        assert len(packed) < len(plain) / 5
        assert b"Vary: Accept-Encoding" in plain
        assert b"Content-Encoding" not in small


async def test_key_that_is_there_twice_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    async with running(settings_in(tmp_path)) as server:
        for body in (b'{"version": "v1", "version": "v2"}', b'{"more": [{"version": 1, "x": 2, "version": 1}]}'):
            answer = await sent(server, post(server, body, f"Content-Length: {len(body)}"))
            says = b'\\"version\\": is 2 times in one object of the body; give it once'
            assert (status(answer), says in answer) == (400, True), answer
