"""Other people's name servers, asked over UDP and TCP."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from os import PathLike

from vxlanfast.checks import address, among
from vxlanfast.errors import SpecError, VxlanFastError
from vxlanfast.resolver import FORMERR, NOTIMP, REFUSED, SERVFAIL

_HDR_LEN = 12
_PORT = 53


class BusyError(VxlanFastError):
    """So many questions wait for answers that no more are taken."""


def parse_server(text: str) -> tuple[str, int]:
    """A server and its port: ``192.0.2.53``, ``192.0.2.53:5353``, ``[2001:db8::53]:53``. SpecError: it is none."""
    host, port = text, str(_PORT)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise SpecError(f"upstream = {text!r}: an address, or address:port, that of IPv6 in brackets")
        port = rest[1:] or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    address("upstream", host)
    if not (port.isascii() and port.isdigit()):
        raise SpecError(f"upstream = {text!r}: a port is a number")
    among("upstream", int(port), 1, 65535)
    return host, int(port)


def system_servers(path: str | PathLike[str] = "/etc/resolv.conf") -> tuple[str, ...]:
    """The name servers of this host; none where nothing says so. What is no address is passed over."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            words = [line.split() for line in file]
    except OSError:
        return ()
    found = []
    for line in words:
        if len(line) > 1 and line[0] == "nameserver":
            with suppress(ValueError):
                found.append(str(ip_address(line[1])))
    return tuple(dict.fromkeys(found))


def answers(query: bytes, answer: bytes) -> bool:
    """Whether a message is the answer to a question: its number, its direction, and the question itself again, letters
    of whatever case. A refusal may leave the question out."""
    if min(len(query), len(answer)) < _HDR_LEN or answer[:2] != query[:2]:
        return False
    if (answer[2] ^ query[2]) & 0xF8 != 0x80:
        return False
    end = _question_end(query)
    if end is None:
        return False
    if answer[4:6] == b"\0\0":
        return answer[3] & 15 in (FORMERR, SERVFAIL, NOTIMP, REFUSED)
    # Labels' lengths are below 64 and so no letters; of type and class the letters' case is none.
    asked, said = query[_HDR_LEN:end], answer[_HDR_LEN:end]
    return answer[4:6] == b"\0\1" and said[:-4].lower() == asked[:-4].lower() and said[-4:] == asked[-4:]


def _question_end(query: bytes) -> int | None:
    """Where a question ends that is in no need of what was before it; None: nowhere."""
    at = _HDR_LEN
    while at < len(query) and query[at]:
        if query[at] > 63:
            return None
        at += 1 + query[at]
    return at + 5 if at + 5 <= len(query) else None


class _Asking(asyncio.DatagramProtocol):
    """One question over UDP, from a port of its own."""

    def __init__(self, query: bytes) -> None:
        self.query = query
        self.answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if answers(self.query, data) and not self.answer.done():
            self.answer.set_result(data)  # all else is not ours: the answer may yet come

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_result(None)


class Upstream:
    """Asks others, of whom the first that answers is believed; who fails or refuses is passed over.

    ``servers``: addresses, with ports if not 53. ``limit``: questions on their way; as many again may wait ``wait_s``
    for their turn. ``timeout_s``: of one server, which is asked twice at most; ``total_s``: of all.
    """

    def __init__(
        self,
        servers: Sequence[str],
        *,
        limit: int = 256,
        wait_s: float = 4.0,
        timeout_s: float = 1.5,
        total_s: float = 4.5,
    ) -> None:
        self.servers = tuple(parse_server(text) for text in servers)
        self._limit = limit
        self._wait_s, self._timeout_s, self._total_s = wait_s, timeout_s, total_s
        self._slots = asyncio.Semaphore(limit)
        self._count = 0

    async def ask(self, query: bytes, *, tcp: bool = False) -> bytes | None:
        """The answer to a question; None: nobody gave one. ``tcp``: what UDP cuts is asked for again.

        BusyError: too many questions are on their way. The number of the answer is the question's.
        """
        if self._count >= 2 * self._limit:
            raise BusyError(f"{self._count} questions on their way")
        self._count += 1
        try:
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._slots.acquire()
            except TimeoutError:
                raise BusyError(f"{self._limit} questions on their way, for {self._wait_s} s") from None
            try:
                async with asyncio.timeout(self._total_s):
                    return await self._ask(query, tcp)
            except TimeoutError:
                return None
            finally:
                self._slots.release()
        finally:
            self._count -= 1

    async def _ask(self, query: bytes, tcp: bool) -> bytes | None:
        for _ in range(2):
            for server in self.servers:
                numbered = secrets.token_bytes(2) + query[2:]  # nobody guesses it (RFC 5452 §9.2)
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(self._timeout_s):
                        answer = await self._by_udp(numbered, server)
                        if answer is not None and answer[2] & 2 and tcp:
                            answer = await self._by_tcp(numbered, server) or answer
                    if answer is not None and answer[3] & 15 not in (SERVFAIL, REFUSED):
                        return query[:2] + answer[2:]
        return None

    @staticmethod
    async def _by_udp(query: bytes, server: tuple[str, int]) -> bytes | None:
        loop = asyncio.get_running_loop()
        transport, asking = await loop.create_datagram_endpoint(lambda: _Asking(query), remote_addr=server)
        try:
            transport.sendto(query)
            return await asking.answer
        finally:
            transport.close()

    @staticmethod
    async def _by_tcp(query: bytes, server: tuple[str, int]) -> bytes | None:
        reader, writer = await asyncio.open_connection(*server)
        try:
            writer.write(len(query).to_bytes(2) + query)
            size = int.from_bytes(await reader.readexactly(2))
            answer = await reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            return None
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        return answer if answers(query, answer) else None
