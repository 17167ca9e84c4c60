"""DNS over TCP (RFC 7766) for a resolver that has no kernel below it: segments in, segments out, time as an argument.

As much of RFC 9293 as a server of short answers needs: what comes out of order is asked for again, no options but the
maximum segment size, no delayed answers, one timer a connection. Everything that a peer can make grow has an end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

#: TCP (RFC 9293 §3.1): places in the header, and its bits.
_HDR_LEN = 20
_FIN, _SYN, _RST, _PSH, _ACK = 1, 2, 4, 8, 16
_OPT_END, _OPT_NOP, _OPT_MSS = 0, 1, 2
#: What a peer is sent that names no MSS of its own (RFC 9293 §3.7.1).
_MSS4, _MSS6 = 536, 1220
_MASK = 0xFFFFFFFF
SECOND_NS = 1_000_000_000
#: Bytes of a question and its length, and of all that a connection holds of them.
_ROOM = 8192
#: Answers that a connection waits for, bytes that it holds of them before it listens again, and bytes of all.
_PENDING_MAX, _OUT_MAX, _HELD_MAX = 16, 1 << 16, 1 << 24
#: Segments on their way at first and at most (RFC 6928); the first timeout (RFC 6298 §2.1), and how many there are.
_BURST = 10
_RTO_NS = SECOND_NS
_TRIES, _TRIES_OPENING = 6, 3


class Caller(NamedTuple):
    """Who asked what, and by which way the answer goes: port of the plane, MAC, address and port; ``own``: the address
    of ours that was asked. ``serial``: of a TCP connection, 0 of a datagram."""

    port: str
    mac: bytes
    address: bytes
    number: int
    own: bytes
    serial: int = 0


class Later(Enum):
    """An answer that will come (see ``reply``)."""

    LATER = 0


LATER = Later.LATER
#: Asked with whoever it is and the question: the answer, or that it will come, or None: there will be none.
Ask = Callable[[Caller, bytes], bytes | Later | None]
#: A segment for somebody; its checksum is not there yet.
Out = tuple[Caller, bytes]


@dataclass(slots=True)
class _Conn:
    peer: Caller
    irs: int
    iss: int
    mss: int
    window: int
    last_ns: int
    rcv_nxt: int
    snd_una: int
    snd_nxt: int
    snd_max: int
    open: bool = False
    peer_done: bool = False
    closing: bool = False  # a FIN goes behind what is in ``out``
    fin_sent: bool = False
    done: bool = False  # the peer has our FIN
    pending: int = 0
    tries: int = 0
    burst: int = _BURST
    timer_ns: int | None = None
    got: bytearray = field(default_factory=bytearray)
    out: bytearray = field(default_factory=bytearray)  # from snd_una on


def _ahead(one: int, other: int) -> int:
    """How far ``one`` is ahead of ``other``, or, negative, behind it."""
    return ((one - other + 0x80000000) & _MASK) - 0x80000000


def _mss_of(options: bytes, default: int) -> int:
    """What a SYN says of its sender's MSS."""
    at = 0
    while at < len(options) and options[at] != _OPT_END:
        if options[at] == _OPT_NOP:
            at += 1
            continue
        if at + 2 > len(options) or options[at + 1] < 2 or at + options[at + 1] > len(options):
            break
        if options[at] == _OPT_MSS and options[at + 1] == 4:
            return int.from_bytes(options[at + 2 : at + 4])
        at += options[at + 1]
    return default


class TcpServer:
    """The connections of a resolver.

    ``mtu``: bytes of IP packet to its clients. ``connections``: at most; ``share``: of them, of one port of the plane.
    When there are as many, one that is half open makes room, or the new one is refused. ``idle_s``: one that has asked
    nothing for so long, and waits for nothing, is closed.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        number: int = 53,
        mtu: int = 1400,
        connections: int = 256,
        share: int = 64,
        idle_s: float = 10.0,
        rng: random.Random | None = None,
    ) -> None:
        self._ask = ask
        self._number = number
        self._mtu = mtu
        self._limit, self._share = connections, share
        self._idle_ns = int(idle_s * SECOND_NS)
        self._rng = rng or random.SystemRandom()
        self._conns: dict[tuple[str, bytes, int, bytes], _Conn] = {}
        self._serial = 0
        self.opened = self.refused = self.evicted = self.given_up = 0

    def __len__(self) -> int:
        return len(self._conns)

    # --- what comes -----------------------------------------------------------------------------------------

    def segment(self, peer: Caller, data: bytes, now_ns: int) -> list[Out]:
        """A segment whose checksum is right."""
        start = (data[12] >> 4) * 4 if len(data) >= _HDR_LEN else 0
        if not _HDR_LEN <= start <= len(data):
            return []
        key = peer.port, peer.address, peer.number, peer.own
        conn = self._conns.get(key)
        seq, ack = int.from_bytes(data[4:8]), int.from_bytes(data[8:12])
        flags, window = data[13], int.from_bytes(data[14:16])
        body = data[start:]
        if conn is None:
            if flags & _RST:
                return []
            if flags & (_SYN | _ACK | _FIN) == _SYN:
                return self._begin(key, peer, seq, window, data[_HDR_LEN:start], now_ns)
            return [self._reset(peer, seq, ack, flags, len(body))]
        conn.peer = conn.peer._replace(mac=peer.mac)
        if flags & _RST:
            return self._reset_by_peer(key, conn, seq)
        if flags & _SYN:
            if not conn.open and seq == conn.irs:
                return [self._syn_ack(conn)]
            return [self._make(conn, _ACK)]  # RFC 5961 §4
        if not flags & _ACK:
            return []
        if _ahead(ack, conn.snd_max) > 0 or (not conn.open and ack != (conn.iss + 1) & _MASK):
            return [self._make(conn, _ACK)] if conn.open else [self._reset(peer, seq, ack, flags, 0)]
        self._acked(conn, ack, window, now_ns)
        answer = self._take(conn, seq, body, bool(flags & _FIN))
        return self._go_on(key, conn, now_ns, answer)

    def reply(self, caller: Caller, wire: bytes, now_ns: int) -> list[Out]:
        """An answer that was promised; nobody may be there for it any more."""
        key = caller.port, caller.address, caller.number, caller.own
        conn = self._conns.get(key)
        if conn is None or conn.peer.serial != caller.serial or not conn.pending:
            return []
        conn.pending -= 1
        if sum(len(one.out) for one in self._conns.values()) + len(wire) > _HELD_MAX:
            return self._give_up(key, conn)
        self._queue(conn, wire, now_ns)
        return self._go_on(key, conn, now_ns, False)

    def tick(self, now_ns: int) -> list[Out]:
        """What time has brought: segments sent again, connections closed."""
        made: list[Out] = []
        for key, conn in list(self._conns.items()):
            if conn.timer_ns is not None and now_ns >= conn.timer_ns:
                made += self._again(key, conn, now_ns)
            elif conn.open and not conn.pending and not conn.out and now_ns - conn.last_ns >= self._idle_ns:
                if conn.closing:  # it has our FIN, and sends none
                    made += self._give_up(key, conn)
                else:
                    conn.closing, conn.last_ns = True, now_ns
                    made += self._go_on(key, conn, now_ns, False)
        return made

    # --- opening and ending ---------------------------------------------------------------------------------

    def _begin(
        self, key: tuple[str, bytes, int, bytes], peer: Caller, seq: int, window: int, options: bytes, now_ns: int
    ) -> list[Out]:
        if not self._room(peer.port):
            self.refused += 1
            return [self._reset(peer, seq, 0, _SYN, 0)]
        self._serial += 1
        headers, default = (40, _MSS4) if len(peer.address) == 4 else (60, _MSS6)
        mss = max(64, min(_mss_of(options, default), self._mtu - headers))
        iss = self._rng.getrandbits(32)
        conn = _Conn(
            peer._replace(serial=self._serial), irs=seq, iss=iss, mss=mss, window=window, last_ns=now_ns,
            rcv_nxt=(seq + 1) & _MASK, snd_una=iss, snd_nxt=(iss + 1) & _MASK, snd_max=(iss + 1) & _MASK,
            timer_ns=now_ns + _RTO_NS,
        )  # fmt: skip
        self._conns[key] = conn
        self.opened += 1
        return [self._syn_ack(conn)]

    def _room(self, port: str) -> bool:
        """Whether there is room for one more of that port; who is half open longest makes some."""
        mine = [key for key in self._conns if key[0] == port]
        if len(self._conns) < self._limit and len(mine) < self._share:
            return True
        among = mine if len(mine) >= self._share else list(self._conns)
        oldest = next((key for key in among if not self._conns[key].open), None)
        if oldest is None:
            return False
        del self._conns[oldest]
        self.evicted += 1
        return True

    def _reset_by_peer(self, key: tuple[str, bytes, int, bytes], conn: _Conn, seq: int) -> list[Out]:
        if seq == conn.rcv_nxt:
            del self._conns[key]
            return []
        inside = 0 < _ahead(seq, conn.rcv_nxt) < _ROOM
        return [self._make(conn, _ACK)] if inside else []  # RFC 5961 §3

    def _give_up(self, key: tuple[str, bytes, int, bytes], conn: _Conn) -> list[Out]:
        del self._conns[key]
        self.given_up += 1
        return [self._make(conn, _RST | _ACK)]

    # --- what was taken, and what is said -------------------------------------------------------------------

    def _acked(self, conn: _Conn, ack: int, window: int, now_ns: int) -> None:
        conn.window = window
        new = _ahead(ack, conn.snd_una)
        if new <= 0:
            return
        if not conn.open:
            conn.open, new = True, new - 1
        del conn.out[:new]  # a FIN behind it is nothing that is held
        conn.snd_una = ack
        conn.done = conn.fin_sent and ack == conn.snd_max
        if _ahead(ack, conn.snd_nxt) > 0:
            conn.snd_nxt = ack
        conn.tries, conn.last_ns = 0, now_ns
        conn.burst = min(_BURST, conn.burst + 1)
        conn.timer_ns = None if conn.snd_una == conn.snd_max else now_ns + _RTO_NS

    def _take(self, conn: _Conn, seq: int, body: bytes, fin: bool) -> bool:
        """Take what is next; whether the peer is to hear of it."""
        known = _ahead(conn.rcv_nxt, seq)
        if known < 0 or known > len(body) + fin or conn.peer_done:
            return bool(body or fin)
        fresh = body[known:][: _ROOM - len(conn.got)]
        conn.got += fresh
        conn.rcv_nxt = (conn.rcv_nxt + len(fresh)) & _MASK
        if fin and known + len(fresh) >= len(body):
            conn.peer_done = True
            conn.rcv_nxt = (conn.rcv_nxt + 1) & _MASK
        return bool(body or fin)

    def _go_on(self, key: tuple[str, bytes, int, bytes], conn: _Conn, now_ns: int, answer: bool) -> list[Out]:
        """Ask what has come whole, and send what may be sent."""
        if conn.closing and conn.got:
            return self._give_up(key, conn)  # nobody listens any more (RFC 9293 §3.10.7.4)
        while len(conn.got) >= 2 and conn.pending < _PENDING_MAX and len(conn.out) < _OUT_MAX:
            size = int.from_bytes(conn.got[:2])
            if not size or size + 2 > _ROOM:
                return self._give_up(key, conn)
            if len(conn.got) < size + 2:
                break
            query = bytes(conn.got[2 : size + 2])
            del conn.got[: size + 2]
            conn.last_ns = now_ns
            said = self._ask(conn.peer, query)
            if said is LATER:
                conn.pending += 1
            elif said is not None:
                self._queue(conn, said, now_ns)
            answer = True  # there is room again
        if conn.peer_done and not conn.pending and len(conn.got) < 2 + int.from_bytes(conn.got[:2] or b"\0"):
            conn.closing = True  # nothing that it asked is left
        sent = [self._piece(conn, flags, at, size) for flags, at, size in self._pieces(conn, now_ns)]
        if conn.done and conn.peer_done:
            del self._conns[key]
        return sent or ([self._make(conn, _ACK)] if answer else [])

    @staticmethod
    def _queue(conn: _Conn, wire: bytes, now_ns: int) -> None:
        conn.out += len(wire).to_bytes(2) + wire
        conn.last_ns = now_ns

    def _pieces(self, conn: _Conn, now_ns: int, *, probe: bool = False) -> Iterator[tuple[int, int, int]]:
        """Flags, place and length of what goes now: as much as peer and burst allow. ``probe``: a byte at least."""
        if not conn.open or conn.done:
            return
        while True:
            at = _ahead(conn.snd_nxt, conn.snd_una)
            left = len(conn.out) - at
            room = max(min(conn.window, conn.burst * conn.mss) - at, 1 if probe else 0)
            size = min(left, room, conn.mss)
            last = conn.closing and size == left
            # No small pieces while others are on their way: what is behind them comes in one (RFC 9293 §3.8.6.2.1).
            if left < 0 or (size <= 0 and not last) or (0 < size < min(left, conn.mss) and at and not probe):
                break
            yield _ACK | (_PSH if size and size == left else 0) | (_FIN if last else 0), at, size
            conn.snd_nxt = (conn.snd_nxt + size + last) & _MASK
            conn.fin_sent |= last
            if _ahead(conn.snd_nxt, conn.snd_max) > 0:
                conn.snd_max = conn.snd_nxt
            if last or probe:
                break
        if conn.timer_ns is None and (conn.snd_una != conn.snd_nxt or conn.out):
            conn.timer_ns = now_ns + (_RTO_NS << conn.tries)

    def _again(self, key: tuple[str, bytes, int, bytes], conn: _Conn, now_ns: int) -> list[Out]:
        """The peer has not answered in time: from the first byte that it lacks on, or only a byte if it has no room."""
        conn.tries += 1
        if conn.tries > (_TRIES if conn.open else _TRIES_OPENING):
            return self._give_up(key, conn)
        conn.timer_ns = now_ns + (_RTO_NS << conn.tries)
        if not conn.open:
            return [self._syn_ack(conn)]
        conn.snd_nxt, conn.burst = conn.snd_una, 1
        pieces = self._pieces(conn, now_ns, probe=not conn.window)
        return [self._piece(conn, flags, at, size) for flags, at, size in pieces]

    # --- segments -------------------------------------------------------------------------------------------

    def _piece(self, conn: _Conn, flags: int, at: int, size: int) -> Out:
        return self._make(conn, flags, (conn.snd_una + at) & _MASK, bytes(conn.out[at : at + size]))

    def _syn_ack(self, conn: _Conn) -> Out:
        mss = self._mtu - (40 if len(conn.peer.address) == 4 else 60)
        return self._make(conn, _SYN | _ACK, conn.iss, options=bytes([_OPT_MSS, 4]) + mss.to_bytes(2))

    def _make(self, conn: _Conn, flags: int, seq: int | None = None, body: bytes = b"", options: bytes = b"") -> Out:
        seq = conn.snd_nxt if seq is None else seq
        window = _ROOM - len(conn.got)
        return conn.peer, self._header(conn.peer, flags, seq, conn.rcv_nxt, window, options) + body

    def _reset(self, peer: Caller, seq: int, ack: int, flags: int, size: int) -> Out:
        """To what is of no connection (RFC 9293 §3.5.2)."""
        if flags & _ACK:
            return peer, self._header(peer, _RST, ack, 0, 0)
        taken = seq + size + bool(flags & _SYN) + bool(flags & _FIN)
        return peer, self._header(peer, _RST | _ACK, 0, taken & _MASK, 0)

    def _header(self, peer: Caller, flags: int, seq: int, ack: int, window: int, options: bytes = b"") -> bytes:
        return (
            self._number.to_bytes(2) + peer.number.to_bytes(2) + seq.to_bytes(4) + ack.to_bytes(4)
            + bytes([(_HDR_LEN + len(options)) << 2, flags]) + window.to_bytes(2) + bytes(4) + options
        )  # fmt: skip
