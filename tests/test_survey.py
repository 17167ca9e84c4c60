"""survey_file: against counts that scapy makes, and what it says of odd captures."""

import io
import json
from collections import Counter

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

import vxlanfast as vf
from tests.make_fixtures import edge_cases, eth, inner_frame, ip4, ip6, strict_cases, vxlan
from tests.support import FIXTURES, Packet, Pcapng, assert_adds_up, frames_of, pcap

ETHERNET = FIXTURES / "outer-ethernet.pcap"


def test_counts_are_scapys():
    """Packets and bytes by VNI and pair of addresses."""
    frames = [frame for frame in frames_of(ETHERNET) if VXLAN in Ether(frame)]
    assert len(frames) > 15
    packets: Counter = Counter()
    sizes: Counter = Counter()
    for frame in frames:
        packet = Ether(frame)
        header = packet[VXLAN]
        outer = header.underlayer
        while outer is not None and not isinstance(outer, IP | IPv6):
            outer = outer.underlayer
        key = header.vni, outer.src, outer.dst
        packets[key] += 1
        sizes[key] += len(header.payload)
    survey = vf.survey_file(io.BytesIO(pcap(frames)))
    got = {(t.vni, t.src, t.dst): (t.packets, t.bytes) for network in survey.networks for t in network.tunnels}
    assert got == {key: (packets[key], sizes[key]) for key in packets}
    assert [network.vni for network in survey.networks] == sorted({vni for vni, _, _ in packets})
    for network in survey.networks:
        assert [t.packets for t in network.tunnels] == sorted((t.packets for t in network.tunnels), reverse=True)
        assert network.packets == sum(t.packets for t in network.tunnels)
        assert network.bytes == sum(t.bytes for t in network.tunnels)
    assert_adds_up(survey.stats)


def test_times():
    """First and last are the least and the greatest, in whatever order the packets come."""
    frame = bytes(eth() / ip4() / vxlan() / inner_frame())
    data = pcap([Packet(ts, frame, len(frame)) for ts in (5000, 2000, 9000, 7000)])
    (network,) = vf.survey_file(io.BytesIO(data)).networks
    assert (network.first_ns, network.last_ns) == (2000, 9000)


def test_truncated():
    (network,) = vf.survey_file(FIXTURES / "edges.pcap").networks
    cases = [case for case in edge_cases() if case.inner is not None]
    assert network.truncated == 3
    assert network.packets == len(cases)
    long = next(case for case in cases if case.name == "snaplen-64")
    alone = vf.survey_file(io.BytesIO(pcap([long.packet()]))).networks[0]
    assert (alone.truncated, alone.bytes) == (1, long.wire_len - 50)


@pytest.mark.parametrize(
    ("flags", "odd"),
    [
        ({}, {}),
        ({"flags": 0x88, "gpid": 7}, {"gbp": 1}),
        ({"flags": 0x48}, {"reserved": 1}),
        ({"flags": 0x0C, "NextProtocol": 3}, {"gpe": 1}),
        ({"reserved2": 1}, {"reserved": 1}),
    ],
    ids=str,
)
def test_flags(flags, odd):
    frame = bytes(eth() / ip4() / vxlan(**flags) / inner_frame())
    (network,) = vf.survey_file(io.BytesIO(pcap([frame]))).networks
    assert {name: getattr(network, name) for name in ("gbp", "gpe", "reserved")} == {
        "gbp": 0,
        "gpe": 0,
        "reserved": 0,
        **odd,
    }


def test_checksums_are_counted():
    frames = [bytes(eth() / outer / vxlan(csum=csum) / inner_frame()) for outer in (ip4(), ip6()) for csum in (0, None)]
    (network,) = vf.survey_file(io.BytesIO(pcap(frames))).networks
    assert (network.packets, network.csummed) == (4, 2)
    whole = vf.survey_file(FIXTURES / "strict.pcap")
    assert whole.stats.passed == len(strict_cases())


def test_as_dict_is_json():
    survey = vf.survey_file(FIXTURES / "mixed.pcapng")
    back = json.loads(json.dumps(survey.as_dict()))
    assert back["links"] == [1, 113, 101] and back["format"] == "pcapng" and back["compression"] is None
    assert back["stats"]["verb"] == "info" and back["stats"]["packets"] == 16
    assert back["networks"][0]["tunnels"][0]["packets"] == survey.networks[0].tunnels[0].packets


@pytest.mark.parametrize(
    "name", ["outer-ethernet.pcap", "outer-sll.pcap", "outer-null.pcap", "mixed.pcapng", "others.pcap"]
)
def test_several_files(name):
    """Each adds up for itself, and agrees with decap."""
    survey = vf.survey_file(FIXTURES / name)
    stats = vf.decap_file(FIXTURES / name, io.BytesIO())
    assert_adds_up(survey.stats)
    assert (survey.stats.packets, survey.stats.passed, survey.stats.drops) == (
        stats.packets,
        stats.passed,
        stats.drops,
    )
    assert sum(network.packets for network in survey.networks) == stats.passed
    assert survey.stats.written == 0


def test_more_tunnels_than_fit(monkeypatch):
    """The further ones are counted together, without addresses."""
    from vxlanfast import survey as module
    from vxlanfast._ext.table.tunnels import TunnelTable

    real = module.SurveyNode
    monkeypatch.setattr(module, "SurveyNode", lambda: real(TunnelTable(limit=3)))
    frames = [bytes(eth() / ip4() / vxlan(vni) / inner_frame()) for vni in (1, 2, 3, 4, 5, 1)]
    survey = vf.survey_file(io.BytesIO(pcap(frames)))
    assert [(network.vni, network.packets) for network in survey.networks] == [
        (1, 2),
        (2, 1),
        (3, 1),
        (None, 2),
    ]
    assert (survey.networks[-1].tunnels[0].src, survey.networks[-1].tunnels[0].dst) == (None, None)
    json.dumps(survey.as_dict())


def test_a_cut_file_is_surveyed_to_the_cut():
    survey = vf.survey_file(io.BytesIO(ETHERNET.read_bytes()[:-1]))
    assert survey.stats.packets == 27
    assert "at byte" in survey.stats.fault


def test_no_capture_and_empty_captures():
    for data in (b"", b"no capture" * 9):
        with pytest.raises(vf.CaptureError):
            vf.survey_file(io.BytesIO(data))
    for data, links in ((pcap([]), (1,)), (Pcapng().data, ()), (Pcapng().interface(113).data, (113,))):
        survey = vf.survey_file(io.BytesIO(data))
        assert (survey.networks, survey.links, survey.stats.packets) == ((), links, 0)


def test_watch_and_count():
    one = ETHERNET.read_bytes()
    data = one[:24] + one[24:] * 1000
    survey = vf.survey_file(io.BytesIO(data), watch=lambda packets, at, size: True)
    assert survey.stats.interrupted and 0 < survey.stats.packets < 28000
    assert sum(network.packets for network in survey.networks) == survey.stats.packets
    assert vf.survey_file(io.BytesIO(data), count=9).stats.packets == 9
