"""A resolver's connections, against a client that says exactly what the test says."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, in4_chksum
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.stubs import FAMILIES, SECOND, Peer, Said, exact, framed, net, stub
from vxlanfast.stub_tcp import LATER


@FAMILIES
def test_a_connection(family: int) -> None:
    said = Said()
    peer = Peer(stub(said), family).open()
    answers = peer.ask(b"one")
    assert peer.take(answers) == framed(b"answer to one") and answers[0][TCP].ack == peer.seq
    assert peer.send("A") == []
    assert peer.take(peer.ask(b"two", b"three")) == framed(b"answer to two", b"answer to three")
    [fin] = peer.send("FA")
    assert fin[TCP].flags == "FA" and fin[TCP].ack == peer.seq + 1
    peer.seq, peer.ack = peer.seq + 1, peer.ack + 1
    assert peer.send("A") == [] and len(peer.stub.tcp) == 0
    assert {caller.serial for caller, _ in said.asked} == {1}


def test_options_of_the_handshake() -> None:
    """Our own MSS is what the MTU leaves; his is kept to, also where he says nothing, or nonsense."""
    for mss, size in ((1000, 1000), (None, 536), (1, 64), (9000, 1360)):
        peer = Peer(stub(Said(lambda q: bytes(5000)), mtu=1400), mss=mss)
        [answer] = peer.send("S")
        assert dict(answer[TCP].options)["MSS"] == 1360
        peer.seq, peer.ack = 1001, answer[TCP].seq + 1
        assert len(peer.ask(b"q")[0][TCP].payload) == size
    for options in (b"\2", b"\2\1\0\0", b"\2\4", b"\3\0", b"\0\2\4\4\0", b"\xff\xff"):
        frame = bytearray(bytes(net(4) / TCP(sport=4000, dport=53, flags="S", options=[("Timestamp", (1, 2))])))
        frame[50:52], frame[54:66] = b"\0\0", options.ljust(12, b"\0")
        frame[50:52] = in4_chksum(socket.IPPROTO_TCP, IP(bytes(frame[14:34])), bytes(frame[34:])).to_bytes(2)
        assert len(stub().frames("veth1", bytes(frame), 0)) == 1


def test_questions_in_pieces() -> None:
    peer = Peer(stub()).open()
    data = framed(b"question")
    for at in range(len(data) - 1):
        [answer] = peer.send("A", data[at : at + 1])
        assert answer[TCP].flags == "A" and not answer[TCP].payload
        peer.seq += 1
    assert peer.take(peer.send("A", data[-1:])) == framed(b"answer to question")


def test_out_of_order_and_again() -> None:
    """What is ahead is asked for again, what was there before is not taken twice."""
    said = Said()
    peer = Peer(stub(said)).open()
    data = framed(b"question")
    [answer] = peer.send("A", data[4:], seq=peer.seq + 4)
    assert answer[TCP].ack == peer.seq and not said.asked
    assert peer.send("A", data[:4])[0][TCP].ack == peer.seq + 4
    assert peer.take(peer.send("A", data[2:], seq=peer.seq + 2)) == framed(b"answer to question")
    [answer] = peer.send("A", data)
    assert answer[TCP].ack == peer.seq + len(data) and len(said.asked) == 1


def test_a_long_answer_goes_in_bursts() -> None:
    """Segments of the peer's MSS, ten at first, within his window; to the last byte."""
    long = bytes(range(256)) * 255
    peer = Peer(stub(Said(lambda q: long)), window=20000).open()
    got, sent = b"", peer.ask(b"q")
    while sent:
        assert len(sent) <= 10 and all(len(one[TCP].payload) <= 1000 for one in sent)
        got += peer.take(sent)
        sent = peer.send("A")
    assert got == framed(long)


def test_a_small_window() -> None:
    long = bytes(range(256)) * 20
    peer = Peer(stub(Said(lambda q: long)), window=1500).open()
    got, sent = b"", peer.ask(b"q")
    assert [len(one[TCP].payload) for one in sent] == [1000]  # no small piece behind it
    while sent:
        assert sum(len(one[TCP].payload) for one in sent) <= 1500
        got += peer.take(sent)
        sent = peer.send("A")
    assert got == framed(long)


def test_a_closed_window_is_asked_for() -> None:
    peer = Peer(stub(Said(lambda q: b"x" * 100))).open()
    peer.window = 0
    [answer] = peer.ask(b"q")
    assert not answer[TCP].payload
    [probe] = peer.later(1.1)
    assert bytes(probe[TCP].payload) == b"\0"  # the first of the length's two
    [probe] = peer.later(2.1)
    assert len(probe[TCP].payload) == 1 and peer.take([probe]) == b"\0"
    peer.window = 1000
    assert peer.take(peer.send("A")) == framed(b"x" * 100)[1:]


def test_what_is_lost_is_sent_again() -> None:
    long = bytes(range(256)) * 20
    peer = Peer(stub(Said(lambda q: long))).open()
    sent = peer.ask(b"q")
    assert len(sent) == 6
    got = peer.take(sent[:2])
    assert peer.send("A") == []  # the rest is on its way
    assert peer.later(0.5) == []
    again = peer.later(0.6)
    assert [len(one[TCP].payload) for one in again] == [1000]
    while again:
        got += peer.take(again)
        again = peer.send("A")
    assert got == framed(long)


def test_nobody_there_any_more() -> None:
    """It is sent again, more and more seldom, and then given up."""
    peer = Peer(stub(Said(lambda q: b"x"))).open()
    peer.ask(b"q")
    times = []
    while len(peer.stub.tcp):
        if sent := peer.later(1):
            times.append((peer.now // SECOND, str(sent[0][TCP].flags)))
        assert peer.now < 300 * SECOND
    assert times == [(1, "PA"), (3, "PA"), (7, "PA"), (15, "PA"), (31, "PA"), (63, "PA"), (127, "RA")]
    assert peer.stub.tcp.given_up == 1


def test_a_handshake_that_nobody_ends() -> None:
    peer = Peer(stub())
    [first] = peer.send("S")
    assert bytes(peer.send("S")[0][TCP]) == bytes(first[TCP])
    times = []
    while len(peer.stub.tcp):
        if sent := peer.later(1):
            times.append((peer.now // SECOND, str(sent[0][TCP].flags)))
    assert times == [(1, "SA"), (3, "SA"), (7, "SA"), (15, "RA")]


def test_the_idle_are_closed() -> None:
    peer = Peer(stub(idle_s=10)).open()
    peer.ask(b"q")
    peer.ack += 2 + len(b"answer to q")
    peer.send("A")
    assert peer.later(9) == []
    [fin] = peer.later(2)
    assert fin[TCP].flags == "FA"
    peer.take([fin])
    [answer] = peer.send("FA")
    assert answer[TCP].flags == "A" and answer[TCP].ack == peer.seq + 1 and len(peer.stub.tcp) == 0


def test_the_idle_who_do_not_close_are_reset() -> None:
    peer = Peer(stub(idle_s=10)).open()
    [fin] = peer.later(11)
    peer.take([fin])
    assert peer.send("A") == [] and peer.later(5) == []
    [reset] = peer.later(6)
    assert "R" in str(reset[TCP].flags) and len(peer.stub.tcp) == 0


def test_questions_behind_our_own_end() -> None:
    said = Said()
    peer = Peer(stub(said, idle_s=10)).open()
    peer.take(peer.later(11))
    [reset] = peer.ask(b"q")
    assert "R" in str(reset[TCP].flags) and not said.asked


def test_a_byte_now_and_then_holds_nothing() -> None:
    peer = Peer(stub(idle_s=10)).open()
    for _ in range(4):
        assert peer.later(2.4) == []
        peer.send("A", b"\0")
        peer.seq += 1
        if not len(peer.stub.tcp):
            return
    assert "F" in str(peer.later(2.4)[0][TCP].flags)


@pytest.mark.parametrize("length", [0, 8191, 65535])
def test_questions_of_impossible_lengths(length: int) -> None:
    peer = Peer(stub()).open()
    [reset] = peer.send("A", length.to_bytes(2) + b"x")
    assert "R" in str(reset[TCP].flags) and len(peer.stub.tcp) == 0


def test_the_longest_question() -> None:
    said = Said(lambda q: b"ok")
    peer = Peer(stub(said)).open()
    data, got = framed(bytes(8190)), b""
    for at in range(0, len(data), 1000):
        sent = peer.send("A", data[at : at + 1000])
        peer.seq += len(data[at : at + 1000])
        assert sent[0][TCP].window >= len(data) - at - 1000
        got += bytes(sent[-1][TCP].payload)
    assert got == framed(b"ok") and len(said.asked[0][1]) == 8190


def test_late_answers() -> None:
    """In whatever order they come; when the client has closed its side as well."""
    said = Said(lambda q: LATER)
    peer = Peer(stub(said)).open()
    [answer] = peer.ask(b"one", b"two")
    assert not answer[TCP].payload
    [answer] = peer.send("FA")
    assert answer[TCP].flags == "A"
    peer.seq += 1
    (first, _), (second, _) = said.asked
    late = [exact(one) for one in peer.stub.reply(second, b"2", 0)]
    assert peer.take(late) == framed(b"2")
    late = [exact(one) for one in peer.stub.reply(first, b"1", 0)]
    assert peer.take(late) == framed(b"1") and "F" in str(late[-1][TCP].flags)
    assert peer.stub.reply(first, b"1", 0) == []  # it was not asked three times
    assert peer.send("A") == [] and len(peer.stub.tcp) == 0
    assert peer.stub.reply(first, b"1", 0) == []


def test_late_answers_to_another_connection() -> None:
    said = Said(lambda q: LATER)
    peer = Peer(stub(said)).open()
    peer.ask(b"one")
    peer.send("R")
    assert len(peer.stub.tcp) == 0
    again = Peer(peer.stub).open()
    again.ask(b"two")
    assert peer.stub.reply(said.asked[0][0], b"1", 0) == []
    assert len(peer.stub.reply(said.asked[1][0], b"2", 0)) == 1


def test_a_late_datagram() -> None:
    said = Said(lambda q: LATER)
    made = stub(said)
    assert made.frames("veth1", bytes(net(4) / UDP(sport=4000, dport=53) / Raw(b"q")), 0) == []
    [frame] = made.reply(said.asked[0][0], b"late", 0)
    assert bytes(exact(frame)[UDP].payload) == b"late"


def test_who_asks_more_than_is_answered_waits() -> None:
    """Sixteen questions are on their way; what comes behind them fills the window, and is asked when one is back."""
    said = Said(lambda q: LATER)
    peer = Peer(stub(said)).open()
    query = bytes(100)
    for _ in range(10):
        answers = peer.ask(*[query] * 9)
    assert len(said.asked) == 16 and answers[0][TCP].window == 8192 - 74 * 102
    [frame] = peer.stub.reply(said.asked[0][0], b"1", 0)
    assert len(said.asked) == 17 and exact(frame)[TCP].window == 8192 - 73 * 102
    [answer] = peer.send("A", bytes(2000))
    assert answer[TCP].window == 0  # the rest of it is not taken
    assert answer[TCP].ack == peer.seq + 8192 - 73 * 102


def test_no_answer_at_all() -> None:
    peer = Peer(stub(Said(lambda q: None))).open()
    [answer] = peer.ask(b"q")
    assert answer[TCP].flags == "A"
    [fin] = peer.send("FA")
    assert "F" in str(fin[TCP].flags)


def test_resets_and_guesses() -> None:
    """RFC 5961: only what is exactly next is believed; what is near is asked about."""
    peer = Peer(stub()).open()
    [challenge] = peer.send("R", seq=peer.seq + 100)
    assert challenge[TCP].flags == "A"
    assert peer.send("R", seq=peer.seq + 100000) == [] == peer.send("R", seq=peer.seq - 5)
    [challenge] = peer.send("S", seq=peer.seq + 7)
    assert challenge[TCP].flags == "A"
    [challenge] = peer.send("A", ack=peer.ack + 9)
    assert challenge[TCP].flags == "A" and challenge[TCP].ack == peer.seq
    assert peer.send("", b"no ACK") == []
    assert peer.take(peer.ask(b"q")) == framed(b"answer to q")
    assert peer.send("R") == [] and len(peer.stub.tcp) == 0


def test_an_acknowledgement_of_what_was_never_said() -> None:
    peer = Peer(stub())
    [answer] = peer.send("S")
    [reset] = peer.send("A", seq=1001, ack=answer[TCP].seq + 2)
    assert reset[TCP].flags == "R" and reset[TCP].seq == answer[TCP].seq + 2
    assert peer.send("R") == []
    [reset] = Peer(peer.stub, sport=4001).send("FA", ack=77)
    assert reset[TCP].flags == "R" and reset[TCP].seq == 77
    [reset] = Peer(peer.stub, sport=4001).send("SF")
    assert reset[TCP].flags == "RA"


def test_so_many_connections_and_no_more() -> None:
    """Of one port of the plane a quarter; who is half open makes room, else the next is refused."""
    made = stub(connections=8)
    first = Peer(made, sport=5000)
    first.send("S")
    Peer(made, sport=5001).open()
    third = Peer(made, sport=5002).open()  # the first has made room
    assert len(made.tcp) == 2 and made.tcp.evicted == 1
    [reset] = Peer(made, sport=5003).send("S")
    assert reset[TCP].flags == "RA" and made.tcp.refused == 1
    for number in range(3):
        for sport in (1, 2):
            Peer(made, sport=sport, port=f"veth{number + 2}").open()
    assert len(made.tcp) == 8
    assert Peer(made, sport=1, port="veth9").send("S")[0][TCP].flags == "RA"
    assert third.take(third.ask(b"q"))


def test_bytes_of_all_have_an_end() -> None:
    said = Said(lambda q: LATER)
    made = stub(said, connections=400)
    resets = 0
    for sport in range(100):
        peer = Peer(made, sport=1000 + sport)
        peer.window = 0
        peer.open().ask(*[b"q"] * 16)
        for _ in range(16):
            sent = made.reply(said.asked.pop(0)[0], bytes(65535), 0)
            resets += any("R" in str(Ether(one)[TCP].flags) for one in sent)
    assert resets and sum(len(one.out) for one in made.tcp._conns.values()) <= 1 << 24


NEAR = st.integers(-3, 3)


@given(st.lists(st.tuples(st.integers(0, 63), NEAR, NEAR, st.binary(max_size=9)), max_size=12))
def test_hostile_segments(segments: list[tuple[int, int, int, bytes]]) -> None:
    """Any flags, any numbers near the right ones: no exception, and no connection but one."""
    peer = Peer(stub(Said(lambda q: b"x" * 3000))).open()
    for flags, seq, ack, data in segments:
        frame = bytes(net(4) / TCP(sport=4000, dport=53, flags=flags, seq=(peer.seq + seq) & 0xFFFFFFFF,
                                   ack=(peer.ack + ack) & 0xFFFFFFFF) / Raw(data))  # fmt: skip
        for one in peer.stub.frames("veth1", frame, peer.now):
            exact(one)
        peer.later(1)
    assert len(peer.stub.tcp) <= 1
