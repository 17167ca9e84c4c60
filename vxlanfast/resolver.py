"""Questions of DNS answered out of the names of a plane: messages in, messages out, no socket and no clock."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from vxlanfast.checks import rule_error
from vxlanfast.errors import MissingLibraryError
from vxlanfast.names import Found, Names, address_of, reversed_prefix
from vxlanfast.service_spec import PROFILES

if TYPE_CHECKING:
    import dns.message
    import dns.name
    import dns.rdata

#: RFC 1035 §4.1.1, §3.2.2; RFC 3596; RFC 2782.
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
A, PTR, MX, AAAA, SRV, ANY = 1, 12, 15, 28, 33, 255
IXFR, AXFR = 251, 252
_IN = 1
_QR, _TC, _RD, _RA = 0x8000, 0x0200, 0x0100, 0x0080
_OPCODE = 0x7800
_HDR_LEN = 12
#: Over UDP without EDNS (RFC 1035 §2.3.4), and at most with it: what every path takes whole.
UDP_LEN, UDP_MAX = 512, 1232
TCP_MAX = 65535
#: Seconds for which clients may remember an answer: Swarm's for all, and of addresses that come and go.
TTL_S, TTL_TASKS_S = 600, 5
#: Records of the sections behind the question that are looked at; a question has an OPT, and perhaps a signature.
_MORE_MAX = 4


class Client(NamedTuple):
    """Who asks: the name of a port of this node, and the packed address."""

    port: str
    address: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets now."""

    wire: bytes


@dataclass(frozen=True, slots=True)
class Forward:
    """A question for others: ``Resolver.finish`` makes the client's answer of theirs, of ``limit`` bytes at most."""

    query: bytes
    tcp: bool
    limit: int


@dataclass(slots=True)
class _Reply:
    """What is to be said: (owner, TTL, data) of the answers and of what goes with them."""

    code: int = NOERROR
    answers: list[tuple[Any, int, dns.rdata.Rdata]] = field(default_factory=list)
    extra: list[tuple[Any, int, dns.rdata.Rdata]] = field(default_factory=list)


class _Uncompressed(dict[Any, Any]):
    """Names that were written, for those who remember none: every name is written whole."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def need_dns() -> None:
    """MissingLibraryError: dnspython is not there."""
    try:
        import dns.message
        import dns.renderer  # noqa: F401
    except ImportError:
        raise MissingLibraryError("names need dnspython: pip install 'vxlanfast[live]'") from None


class Resolver:
    """Answers for the clients of a node's networks.

    Profile "fixed": names and addresses of this node's networks, and names without a dot, are answered here or do not
    exist; nobody else is asked for them. What may change is to be remembered for 5 s. Profile "swarm" does what Docker
    Swarm was seen to do: TTL 600 for all, no compression and no EDNS, and everybody else is asked for what is not an
    A, AAAA or MX of a name, or the PTR of a task.

    ``udp_max``: bytes of a UDP answer, however much the client takes. ``rng``: shuffles addresses.
    """

    def __init__(
        self, names: Names, *, profile: str = "fixed", udp_max: int = UDP_MAX, rng: random.Random | None = None
    ) -> None:
        need_dns()
        if profile not in PROFILES:
            raise rule_error("profile", profile, " or ".join(PROFILES))
        self.names = names
        self.swarm = profile == "swarm"
        self.udp_max = udp_max
        self._rng = rng or random.SystemRandom()

    def answer(self, query: bytes, client: Client, *, tcp: bool = False) -> Answer | Forward | None:
        """An answer, or that others are to be asked, or None: it is no question, and silence is the answer. Never
        raises, whatever the bytes."""
        import dns.message

        if len(query) < _HDR_LEN or query[2] & 0x80:
            return None
        if int.from_bytes(query[2:4]) & _OPCODE:
            return Answer(_bare(query, NOTIMP))
        counts = [int.from_bytes(query[at : at + 2]) for at in (4, 6, 8, 10)]
        if counts[0] != 1 or sum(counts[1:]) > _MORE_MAX:
            return Answer(_bare(query, FORMERR))
        try:
            message = dns.message.from_wire(query)
            name = message.question[0].name
            labels = [label.decode("latin-1") for label in name.labels[:-1]]
        except Exception:  # whatever dnspython meets in hostile bytes, the answer is the same
            return Answer(_bare(query, FORMERR))
        limit = TCP_MAX if tcp else self._udp_limit(message)
        if message.edns > 0 and not self.swarm:
            return Answer(self._wire(message, _Reply(16), limit))  # BADVERS (RFC 6891 §6.1.3)
        networks = self.names.networks_of(*client)
        question = message.question[0]
        if question.rdclass != _IN or not networks or question.rdtype in (AXFR, IXFR):
            return Answer(self._wire(message, _Reply(REFUSED), limit))
        reply = (self._swarm if self.swarm else self._fixed)(name, labels, int(question.rdtype), networks)
        if reply is not None:
            return Answer(self._wire(message, reply, limit))
        if self.names.internal(networks):
            return Answer(self._wire(message, _Reply(SERVFAIL), limit, recursion=False))
        return Forward(query, tcp, limit)

    def _udp_limit(self, message: dns.message.Message) -> int:
        offered = int(message.payload) if message.edns >= 0 else UDP_LEN
        return max(UDP_LEN, min(offered, self.udp_max))

    # --- what is known here ---------------------------------------------------------------------------------

    def _swarm(self, name: dns.name.Name, labels: list[str], kind: int, networks: Sequence[str]) -> _Reply | None:
        """As Swarm: None, others are asked."""
        if kind in (A, AAAA, MX):
            found = self._find(labels, kind, networks)
            return None if found is None else self._addresses(name, found, kind)
        return self._pointer(name, labels, networks) if kind == PTR else None

    def _fixed(self, name: dns.name.Name, labels: list[str], kind: int, networks: Sequence[str]) -> _Reply | None:
        prefix = reversed_prefix(labels)
        if prefix is not None:
            reply = self._pointer(name, labels, networks)
            if reply is not None:
                return reply if kind in (PTR, ANY) else _Reply()
            return _Reply(NXDOMAIN) if self.names.owns_prefix(prefix) else None
        if len(labels) > 2 and labels[0].startswith("_") and labels[1].startswith("_"):
            reply = self._service(name, labels, kind, networks)
            if reply is not None:
                return reply
        found = self._find(labels, kind, networks)
        if found is not None:
            return self._addresses(name, found, kind)
        mine = len(labels) == 1 or self.names.owns(labels)
        return _Reply(NXDOMAIN) if mine else None

    def _find(self, labels: list[str], kind: int, networks: Sequence[str]) -> Found | None:
        if any("." in label for label in labels):
            return None  # it only looks like a name that somebody has
        return self.names.find(".".join(labels), networks, {A: 4, AAAA: 16}.get(kind, 0))

    def _addresses(self, name: dns.name.Name, found: Found, kind: int) -> _Reply:
        """Those of the family that is asked for: none, where it has the other alone, or something else is asked."""
        wanted = {A: (4,), AAAA: (16,), ANY: (4, 16)}.get(kind, ())
        addresses = [packed for packed in found.addresses if len(packed) in wanted]
        self._rng.shuffle(addresses)
        return _Reply(answers=[(name, self._ttl(found), _address_data(packed)) for packed in addresses])

    def _ttl(self, found: Found) -> int:
        return TTL_S if found.fixed or self.swarm else TTL_TASKS_S

    def _pointer(self, name: dns.name.Name, labels: list[str], networks: Sequence[str]) -> _Reply | None:
        prefix = reversed_prefix(labels)
        address = None if prefix is None else address_of(prefix)
        target = None if address is None else self.names.pointer(address, networks)
        if target is None:
            return None
        data = _data("PTR", target)
        return None if data is None else _Reply(answers=[(name, TTL_S if self.swarm else TTL_TASKS_S, data)])

    def _service(self, name: dns.name.Name, labels: list[str], kind: int, networks: Sequence[str]) -> _Reply | None:
        """Where ``_port._proto.NAME`` is (RFC 2782)."""
        protocol = labels[1][1:].lower()
        port = _port_number(labels[0][1:], protocol)
        if any("." in label for label in labels):
            return None
        places = self.names.places(".".join(labels[2:]), protocol, port, networks)
        if places is None:
            return None
        if not places:
            return _Reply(NXDOMAIN)
        if kind not in (SRV, ANY):
            return _Reply()
        reply = _Reply()
        self._rng.shuffle(places)
        for place in places:
            data = _data("SRV", f"0 0 {place.port} {place.target}")
            if data is None:
                continue
            ttl = self._ttl(place.found)
            reply.answers.append((name, ttl, data))
            reply.extra += [(data.target, ttl, _address_data(packed)) for packed in place.found.addresses]  # type: ignore[attr-defined]
        return reply

    # --- messages -------------------------------------------------------------------------------------------

    def finish(self, forward: Forward, answer: bytes | None, *, busy: bool = False) -> bytes:
        """The client's answer, made of somebody else's; None: nobody answered, or, ``busy``, nobody could be asked."""
        import dns.message

        if answer is not None and _HDR_LEN <= len(answer) <= forward.limit:
            return forward.query[:2] + answer[2:]
        try:
            message = dns.message.from_wire(forward.query)
        except Exception:  # it was read before; but a promise is kept without trusting that
            return _bare(forward.query, SERVFAIL)
        if answer is not None and len(answer) >= _HDR_LEN:
            whole = int.from_bytes(answer[2:4])
            wire = bytearray(self._wire(message, _Reply(whole & 15), forward.limit))
            wire[2:4] = (whole | _QR | _TC).to_bytes(2)
            return bytes(wire)
        return self._wire(message, _Reply(REFUSED if busy else SERVFAIL), forward.limit, recursion=not self.swarm)

    def _wire(self, query: dns.message.Message, reply: _Reply, limit: int, *, recursion: bool = True) -> bytes:
        """A message of at most ``limit`` bytes: what does not fit is left out, and of answers that is said."""
        import dns.exception
        import dns.flags
        import dns.renderer
        import dns.rrset

        renderer: Any = dns.renderer
        edns = query.edns >= 0 and not self.swarm
        code = reply.code
        made = renderer.Renderer(query.id, _QR | (query.flags & _RD), limit - (11 if edns else 0))
        if recursion:
            made.flags |= _RA
        if self.swarm:
            made.compress = _Uncompressed()
        asked = query.question[0]
        made.add_question(asked.name, asked.rdtype, asked.rdclass)
        for section, records in ((renderer.ANSWER, reply.answers), (renderer.ADDITIONAL, reply.extra)):
            try:
                for owner, ttl, data in records:
                    made.add_rrset(section, dns.rrset.from_rdata(owner, ttl, data), want_shuffle=False)
            except dns.exception.TooBig:
                if section == renderer.ANSWER:
                    made.flags |= _TC
                break
        if edns:
            made.max_size = limit
            made.add_edns(0, (code >> 4) << 24, self.udp_max)
        made.flags = (made.flags & ~15) | (code & 15)
        made.write_header()
        return bytes(made.get_wire())


def _bare(query: bytes, code: int) -> bytes:
    """An answer of a header alone, to what could not be read."""
    flags = int.from_bytes(query[2:4]) & (_OPCODE | _RD) | _QR | code
    return query[:2] + flags.to_bytes(2) + bytes(8)


def _data(kind: str, text: str) -> dns.rdata.Rdata | None:
    """A record's data; None: of a name that DNS cannot have."""
    import dns.exception
    import dns.name
    import dns.rdata

    head, _, name = text.rpartition(" ")
    try:
        made = dns.name.Name([*(label.encode("ascii") for label in name.split(".")), b""])
        return dns.rdata.from_text("IN", kind, f"{head} {made}" if head else str(made))
    except (dns.exception.DNSException, UnicodeEncodeError):
        return None


def _address_data(packed: bytes) -> dns.rdata.Rdata:
    import dns.rdata

    return dns.rdata.from_text("IN", "A" if len(packed) == 4 else "AAAA", str(ip_address(packed)))


def _port_number(text: str, protocol: str) -> int:
    """A port, by its number or as the system's /etc/services calls it; 0: there is none."""
    if text.isascii() and text.isdigit():
        return int(text) if len(text) < 6 and int(text) < 65536 else 0
    try:
        return socket.getservbyname(text.lower(), protocol)
    except (OSError, ValueError):
        return 0

