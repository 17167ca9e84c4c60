"""Filter expressions: tcpdump is the witness, and hand-made frames are the rest."""

import ctypes
import ctypes.util
import io
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import CAPTURES
from vxlanfast import filters
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.filter import Filter
from vxlanfast._ext.verdict import Verdict
from vxlanfast.errors import FilterError, MissingLibraryError
from vxlanfast.filters import PacketFilter, compile_filter

try:
    filters._libpcap()
except MissingLibraryError as missing:
    pytest.skip(str(missing), allow_module_level=True)

OUTER, INNER = Verdict.DROP_FILTER_OUTER, Verdict.DROP_FILTER_INNER


# --- frames ---------------------------------------------------------------------------------------------------


def ether(kind: int, payload: bytes, tags: bytes = b"") -> bytes:
    return bytes.fromhex("020000000002 020000000001") + tags + kind.to_bytes(2, "big") + payload


def ipv4(payload: bytes, proto: int = 17, src: str = "192.0.2.1", dst: str = "198.51.100.2") -> bytes:
    addresses = bytes(map(int, src.split("."))) + bytes(map(int, dst.split(".")))
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, proto, 0)
    return head + addresses + payload


def ipv6(payload: bytes, proto: int = 17) -> bytes:
    addresses = bytes.fromhex("20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02")
    return struct.pack(">IHBB", 6 << 28, len(payload), proto, 64) + addresses + payload


def udp(dport: int, payload: bytes = b"", sport: int = 50000) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


def tcp(dport: int) -> bytes:
    return struct.pack(">HHIIBBHHH", 50000, dport, 1, 0, 0x50, 2, 1000, 0, 0)


VXLAN = ether(0x0800, ipv4(udp(4789, b"\x08\0\0\0\0\0\x2a\0" + bytes(60))))
TAGGED = ether(0x0800, ipv4(udp(4789)), tags=bytes.fromhex("81000064"))
SIX = ether(0x86DD, ipv6(udp(4789, bytes(20))))
WEB = ether(0x0800, ipv4(tcp(80), proto=6, dst="203.0.113.3"))
ARP = ether(0x0806, bytes.fromhex("0001080006040001") + bytes(20))
RUNT = b"\x02\0\0"
FRAMES = (VXLAN, TAGGED, SIX, WEB, ARP, RUNT, b"")


def run(expression: str, batch: PacketBatch, verdict: Verdict = OUTER) -> list[int]:
    """The rows that match; the others have the verdict."""
    node = PacketFilter(expression, verdict)
    assert node.process(batch) is batch
    assert set(batch.verdict) <= {0, verdict}
    counts = {v: list(batch.verdict).count(v) for v in set(batch.verdict)}
    assert node.counters() == counts
    return batch.passed()


def frames_of(batch: PacketBatch) -> list[bytes]:
    return [bytes(batch.frame(i)) for i in range(len(batch))]


@pytest.mark.parametrize(
    "expression, rows",
    [
        ("", [0, 1, 2, 3, 4, 5, 6]),
        ("  ", [0, 1, 2, 3, 4, 5, 6]),
        ("udp port 4789", [0, 2]),
        ("vlan", [1]),
        ("vlan 100 and udp port 4789", [1]),
        ("vlan 101", []),
        ("ip", [0, 3]),
        ("ip6", [2]),
        ("ip6 net 2001:db8::/32", [2]),
        ("arp", [4]),
        ("tcp port 80 or arp", [3, 4]),
        ("host 203.0.113.3", [3]),
        ("not host 203.0.113.3", [0, 1, 2, 4]),
        ("net 192.0.2.0/24 and not tcp", [0]),
        ("greater 100", [0]),
        ("less 3", [5, 6]),
        ("udp[8:4] = 0x08000000 and udp[12:4] >> 8 = 42", [0]),
        ("ether src 02:00:00:00:00:01", [0, 1, 2, 3, 4]),
        ("ip broadcast", []),
        ("ip protochain 6", [3]),
    ],
)
def test_expressions(expression, rows):
    assert run(expression, PacketBatch.from_frames(FRAMES)) == rows


def test_only_rows_that_passed_are_decided():
    batch = PacketBatch.from_frames(FRAMES)
    batch.verdict[0] = Verdict.PUNT_PORT
    batch.verdict[4] = Verdict.DROP_TRUNCATED
    node = PacketFilter("udp port 4789", INNER)
    node.process(batch)
    assert list(batch.verdict) == [Verdict.PUNT_PORT, INNER, 0, INNER, Verdict.DROP_TRUNCATED, INNER, INNER]
    assert node.counters() == {Verdict.PASS: 1, INNER: 4}
    node.process(batch)
    assert node.counters() == {Verdict.PASS: 2, INNER: 4}
    assert frames_of(batch) == list(FRAMES)


def test_empty_batch_and_repr():
    node = PacketFilter("tcp", OUTER)
    node.process(PacketBatch())
    assert node.counters() == {}
    assert repr(node) == "PacketFilter('tcp')"


# --- link types -----------------------------------------------------------------------------------------------

LINKS = {
    0: lambda packet: struct.pack("=I", 2) + packet,
    1: lambda packet: ether(0x0800, packet),
    12: lambda packet: packet,
    14: lambda packet: packet,
    101: lambda packet: packet,
    108: lambda packet: struct.pack(">I", 2) + packet,
    113: lambda packet: struct.pack(">HHH8sH", 0, 1, 6, bytes(8), 0x0800) + packet,
    228: lambda packet: packet,
    276: lambda packet: struct.pack(">HHIHBB8s", 0x0800, 0, 1, 1, 0, 6, bytes(8)) + packet,
}


@pytest.mark.parametrize("link", LINKS)
def test_link_types(link):
    frames = [LINKS[link](packet) for packet in (ipv4(udp(4789)), ipv4(udp(53)), ipv4(tcp(80), proto=6))]
    assert run("udp port 4789", PacketBatch.from_frames(frames, link=link)) == [0]
    assert run("ip host 192.0.2.1", PacketBatch.from_frames(frames, link=link)) == [0, 1, 2]


def test_raw_ipv6_link_type():
    batch = PacketBatch.from_frames([ipv6(udp(4789)), ipv6(udp(53))], link=229)
    assert run("ip6 and udp port 4789", batch) == [0]
    assert run("udp port 4789", PacketBatch.from_frames([ipv6(udp(4789)), ipv4(udp(4789))], link=101)) == [
        0,
        1,
    ]


def test_one_filter_many_link_types():
    node = PacketFilter("udp port 4789", OUTER)
    for link in (*LINKS, *LINKS):
        frames = [LINKS[link](ipv4(udp(port))) for port in (4789, 53)]
        assert node.process(PacketBatch.from_frames(frames, link=link)).passed() == [0]
    assert set(node._node.links) == set(LINKS)
    assert node.counters() == {Verdict.PASS: 2 * len(LINKS), OUTER: 2 * len(LINKS)}


def test_link_types_mixed_in_a_batch():
    """Interfaces of one pcapng file may differ row by row; nothing is decided before each has a program."""

    def section(*interfaces):
        shb = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
        return shb + b"".join(struct.pack("<IIHHII", 1, 20, link, 0, 0, 20) for link in interfaces)

    def packet(interface, body):
        padded = body + bytes(-len(body) % 4)
        size = 32 + len(padded)
        return (
            struct.pack("<IIIIIII", 6, size, interface, 0, 0, len(body), len(body))
            + padded
            + struct.pack("<I", size)
        )

    links = list(LINKS)
    stored = section(*links)
    for _ in range(3):
        for number, link in enumerate(links):
            stored += packet(number, LINKS[link](ipv4(udp(4789)))) + packet(
                number, LINKS[link](ipv4(udp(53)))
            )
    (batch,) = batches(stored)
    assert set(batch.link) == set(links)
    assert run("udp port 4789", batch) == list(range(0, len(links) * 6, 2))


def test_link_types_an_expression_has_no_meaning_for():
    node = PacketFilter("vlan", OUTER)
    batch = PacketBatch.from_frames([ipv4(udp(4789))], link=101)
    with pytest.raises(FilterError) as caught:
        node.process(batch)
    assert str(caught.value) == "filter 'vlan': no VLAN support for Raw IP (link type RAW (101))"
    assert list(batch.verdict) == [0]
    assert node.counters() == {}
    with pytest.raises(FilterError, match=r"\(link type USER0 \(147\)\)"):
        PacketFilter("tcp", OUTER).process(PacketBatch.from_frames([b""], link=147))
    with pytest.raises(FilterError, match=r"\(link type number 999\)"):
        PacketFilter("tcp", OUTER).process(PacketBatch.from_frames([b""], link=999))


def test_never_is_an_answer_for_one_link_type_among_others():
    """libpcap calls "ip6" on IPv4 alone an error; beside an Ethernet interface it is none."""
    node = PacketFilter("ip6", OUTER)
    assert node.process(PacketBatch.from_frames([SIX, VXLAN])).passed() == [0]
    assert node.process(PacketBatch.from_frames([ipv4(udp(1))], link=228)).passed() == []
    assert node.counters() == {Verdict.PASS: 1, OUTER: 2}


def test_many_unknown_link_types_are_reported_in_rounds():
    node = Filter({}, compile_filter("").address, OUTER)
    rows = [(link, b"x") for link in range(500, 700)]
    records = b"".join(struct.pack("<IIHHII", 1, 20, link, 0, 0, 20) for link, _ in rows)
    stored = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28) + records
    for number in range(len(rows)):
        stored += struct.pack("<IIIIIII4sI", 6, 36, number, 0, 0, 1, 1, b"x", 36)
    (batch,) = batches(stored)
    insns, met = compile_filter("").insns, []
    while unknown := node.process(batch):
        assert len(unknown) == len(set(unknown))
        for link in unknown:
            met.append(link)
            node.add_program(link, insns)
    assert sorted(met) == list(range(500, 700))
    assert node.counters() == {Verdict.PASS: 200}


# --- lengths --------------------------------------------------------------------------------------------------


def pcap(frames, link=1, wire_lens=None) -> bytes:
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link)
    for i, frame in enumerate(frames):
        wire_len = wire_lens[i] if wire_lens else len(frame)
        out += struct.pack("<IIII", i, 0, len(frame), wire_len) + frame
    return out


def batches(stored: bytes) -> list[PacketBatch]:
    from vxlanfast.capture import open_capture

    with open_capture(io.BytesIO(stored)) as capture:
        return list(capture.batches())


def test_lengths_are_those_on_the_wire():
    (batch,) = batches(pcap([VXLAN[:60]] * 3, wire_lens=[60, 99, 1500]))
    assert run("greater 99", batch) == [1, 2]
    (batch,) = batches(pcap([VXLAN[:60]] * 3, wire_lens=[60, 99, 1500]))
    assert run("len = 1500", batch) == [2]


def test_what_is_cut_off_does_not_match():
    """A load behind the bytes that were captured ends the program: no match, not even for its contrary."""
    (batch,) = batches(pcap([VXLAN[:36], VXLAN[:30]], wire_lens=[len(VXLAN)] * 2))
    assert run("udp[2:2] = 4789", batch) == []
    (batch,) = batches(pcap([VXLAN[:38], VXLAN[:36]], wire_lens=[len(VXLAN)] * 2))
    assert run("udp[2:2] = 4789", batch) == [0]
    (batch,) = batches(pcap([VXLAN[:30]], wire_lens=[len(VXLAN)]))
    assert run("not udp[2:2] = 53", batch) == []


def test_headers_that_stand_apart_from_the_body():
    from vxlanfast import TunnelSpec, encap_batch

    tunnel = TunnelSpec(vni=42, src="192.0.2.8", dst="192.0.2.9")
    frames = [VXLAN, WEB, SIX, bytes(9000)]
    batch = encap_batch(PacketBatch.from_frames(frames), tunnel)
    assert min(batch.head_lengths) > 0
    before = frames_of(batch)
    assert run("dst host 192.0.2.9 and udp port 4789 and udp[12:4] = 0x2a00", batch) == [0, 1, 2, 3]
    assert run("len = 9050", batch) == [3]
    assert frames_of(batch) == before
    # The inner addresses, where the joined frame has them.
    batch = encap_batch(PacketBatch.from_frames(frames), tunnel)
    assert run("ether[50 + 14 + 16:4] = 0xcb007103", batch) == [1]
    assert run("udp port 53", encap_batch(PacketBatch.from_frames(frames), tunnel)) == []


# --- laws -----------------------------------------------------------------------------------------------------

EXPRESSIONS = (
    "udp port 4789",
    "vlan or ip6",
    "tcp[tcpflags] & tcp-syn != 0",
    "ip[6:2] & 0x1fff != 0 or less 40",
    "",
)


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(st.one_of(st.binary(max_size=80), st.sampled_from(FRAMES)), max_size=30),
    expression=st.sampled_from(EXPRESSIONS),
)
def test_a_batch_is_its_rows_one_by_one(frames, expression):
    whole = run(expression, PacketBatch.from_frames(frames))
    single = [i for i, f in enumerate(frames) if run(expression, PacketBatch.from_frames([f]))]
    assert whole == single


@settings(max_examples=60, deadline=None)
@given(frames=st.lists(st.binary(max_size=100), max_size=20), expression=st.sampled_from(EXPRESSIONS))
def test_the_answer_is_libpcaps_own(frames, expression):
    """Against pcap_offline_filter(), which takes a whole struct pcap_pkthdr."""
    library, compiled = filters._libpcap(), compile_filter(expression)
    insns = ctypes.create_string_buffer(compiled.insns)
    program = filters._Program(len(compiled), ctypes.addressof(insns))
    ask = library.pcap_offline_filter
    ask.argtypes = (ctypes.POINTER(filters._Program), ctypes.c_char_p, ctypes.c_char_p)
    want = []
    for i, frame in enumerate(frames):
        header = struct.pack("@llII", 0, 0, len(frame), len(frame))
        if ask(program, header, frame):
            want.append(i)
    assert run(expression, PacketBatch.from_frames(frames)) == want


# --- expressions that are wrong, and libraries that are not there -----------------------------------------------


@pytest.mark.parametrize(
    "expression, message",
    [
        ("udp port", "filter 'udp port': can't parse filter expression: syntax error"),
        ("port nosuchservice", "filter 'port nosuchservice': unknown port 'nosuchservice'"),
        ("ip and ip6", "filter 'ip and ip6': expression rejects all packets"),
        ("host 1.2.3.4.5", None),
        ("((((", None),
        ("tcp\0udp", "filter 'tcp\\x00udp': a NUL ends it early"),
        ("udp\nport", None),
        ("\udcff", None),
    ],
)
def test_wrong_expressions(expression, message):
    with pytest.raises(FilterError) as caught:
        PacketFilter(expression, OUTER)
    assert str(caught.value).startswith("filter ")
    assert "\n" not in str(caught.value)
    if message is not None:
        assert str(caught.value) == message
    assert caught.value.exit_code == 2
    with pytest.raises(FilterError):
        compile_filter(expression)


def test_what_only_a_live_capture_knows():
    for expression in ("inbound", "ifindex 3"):
        with pytest.raises(FilterError):
            compile_filter(expression)
    assert len(compile_filter("inbound", link=113)) > 1  # cooked headers say it
    sent, got = (struct.pack(">HHH8sH", kind, 1, 6, bytes(8), 0x0800) + ipv4(udp(1)) for kind in (4, 0))
    assert run("inbound", PacketBatch.from_frames([sent, got], link=113)) == [1]


def test_a_snaplen_of_zero_takes_nothing():
    with pytest.raises(FilterError, match="snaplen of 0"):
        compile_filter("tcp", snaplen=0)


def test_missing_library(monkeypatch):
    def refuse(name):
        raise OSError(f"{name}: cannot open shared object file")

    filters._libpcap.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    for _ in range(2):
        with pytest.raises(MissingLibraryError) as caught:
            PacketFilter("tcp", OUTER)
        assert str(caught.value).startswith(
            "--inner/--outer filters need libpcap: apt install libpcap0.8 (Debian)"
        )
        assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert run("tcp", PacketBatch.from_frames([WEB])) == [0]


def test_a_library_of_that_name_which_is_another(monkeypatch):
    filters._libpcap.cache_clear()
    libc = ctypes.CDLL(None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    with pytest.raises(MissingLibraryError, match="the one found is another"):
        compile_filter("tcp")
    monkeypatch.undo()
    filters._libpcap.cache_clear()


def test_the_node_checks_what_it_can():
    compiled = compile_filter("tcp")
    for wrong in (
        {1: b""},
        {1: compiled.insns[:-1]},
        {1: bytes(8) * 65537},
        {-1: compiled.insns},
        {65536: b"x" * 8},
    ):
        with pytest.raises(ValueError, match=r"instructions|link type"):
            Filter(wrong, compiled.address, OUTER)
    for verdict in (0, -1, 128):
        with pytest.raises(ValueError, match="drop_verdict"):
            Filter({}, compiled.address, verdict)
    with pytest.raises(ValueError, match="address"):
        Filter({}, 0, OUTER)
    with pytest.raises(TypeError):
        Filter({1: compiled.insns}, compiled.address, OUTER).process(None)


def test_a_program_can_be_replaced():
    node = Filter({1: compile_filter("tcp").insns}, compile_filter("tcp").address, OUTER)
    node.add_program(1, compile_filter("udp").insns)
    batch = PacketBatch.from_frames([WEB, VXLAN])
    assert node.process(batch) == ()
    assert batch.passed() == [1]
    assert node.links == (1,)


def test_two_threads_on_one_filter():
    """Refused where they meet, and never a crash: each has its own."""
    compiled = compile_filter(" and ".join(f"not udp port {port}" for port in range(1000, 1040)))
    node = Filter({1: compiled.insns}, compiled.address, OUTER)
    seen = []

    def work():
        batch = PacketBatch.from_frames([VXLAN] * 20_000)
        for _ in range(20):
            try:
                node.process(batch)
            except RuntimeError as error:
                seen.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) <= {"the filter is at work in another thread: one each"}


# --- tcpdump --------------------------------------------------------------------------------------------------

WITNESSED = (
    "",
    "udp port 4789",
    "udp port 8472",
    "ip6",
    "ip",
    "vlan",
    "tcp",
    "greater 100",
    "less 120 and not arp",
    "ip[6:2] & 0x3fff != 0",
    "udp[8:4] = 0x08000000",
    "ether broadcast or ether multicast",
    "ip broadcast",
)
FILES = sorted((CAPTURES / "vxlan").glob("*.pcap")) if CAPTURES else []


def tcpdump_count(path: Path, expression: str) -> int:
    """Packets that tcpdump writes out again: a count of lines would count its own remarks."""
    command = ["tcpdump", "-n", "-r", str(path), "-w", "-", expression]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    if done.returncode != 0 and not done.stdout:
        pytest.skip(f"tcpdump: {done.stderr.decode(errors='replace').strip().splitlines()[-1]}")
    return sum(len(batch) for batch in batches(done.stdout))


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")
@pytest.mark.skipif(
    not FILES, reason="the captures of others are not here (VXLANFAST_CAPTURES names their folder)"
)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_tcpdump_agrees(path):
    whole = batches(path.read_bytes())
    assert sum(map(len, whole)) == tcpdump_count(path, "")
    for expression in WITNESSED:
        matched = 0
        for batch in whole:
            twin = batch.copy()
            matched += len(run(expression, twin))
        assert matched == tcpdump_count(path, expression), expression


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")
@pytest.mark.parametrize("link", sorted(set(LINKS) - {14}))  # 14 is known on OpenBSD only
def test_tcpdump_agrees_on_made_frames(tmp_path, link):
    packets = [ipv4(udp(4789, bytes(n))) for n in (0, 50, 100)] + [ipv4(tcp(80), proto=6), ipv4(udp(53))]
    path = tmp_path / "made.pcap"
    path.write_bytes(pcap([LINKS[link](packet) for packet in packets], link=link))
    for expression in ("udp port 4789", "greater 100", "tcp", "host 192.0.2.1", "ip[8] = 64"):
        (batch,) = batches(path.read_bytes())
        assert len(run(expression, batch)) == tcpdump_count(path, expression), expression
