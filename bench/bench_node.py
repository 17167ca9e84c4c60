"""node: one node, called from Python over one batch. Columns are put back before each call, outside the
timing.
"""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Measure, plain, vxlan

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.node.parse import Parse
from vxlanfast._ext.node.reassemble import Reassemble
from vxlanfast._ext.node.survey import Survey
from vxlanfast._ext.table.tunnels import TunnelTable
from vxlanfast.benchmark.inputs import OUTER_LEN, VNIS
from vxlanfast.benchmark.memory import Rewind
from vxlanfast.spec import TunnelSpec, compile_tunnel

PORTS = (4789, 8472)


def over(measure: Measure, node: Any, batch: PacketBatch, packet_len: float) -> None:
    """``node.process(batch)``, again and again."""
    measure(lambda: node.process(batch), packets=len(batch), packet_len=packet_len, prepare=Rewind(batch))


def bench_call(measure: Measure) -> None:
    """A call that finds no work: what each batch costs before its first row."""
    node, batch = Decap(PORTS), PacketBatch()
    measure(lambda: node.process(batch), packets=1, packet_len=0)


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param({}, id="all"),
        pytest.param({"peek": True}, id="look only"),
        pytest.param({"strict": True}, id="strict"),
        pytest.param({"levels": 0}, id="all levels"),
        pytest.param({"vnis": [(vni, vni) for vni in VNIS]}, id="VNI hit"),
        pytest.param({"vnis": [(vni, vni) for vni in range(16, 32)]}, id="VNI miss"),
    ],
)
def bench_decap(measure: Measure, rules: dict[str, Any], size: str, rows: int) -> None:
    """VXLAN over IPv4."""
    over(measure, Decap(PORTS, **rules), vxlan(size, rows), int(size) + OUTER_LEN)


def bench_decap_not_vxlan(measure: Measure, size: str, rows: int) -> None:
    """Frames that are none: half of them TCP, half to other ports."""
    over(measure, Decap(PORTS), plain(size, rows), int(size))


V4 = {"src": "192.0.2.1", "dst": "192.0.2.2"}
V6 = {"src": "2001:db8::1", "dst": "2001:db8::2"}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(V4, id="IPv4"),
        pytest.param({**V4, "sport": 50000}, id="IPv4, fixed port"),
        pytest.param({**V4, "udp_csum": "on"}, id="IPv4, UDP checksum"),
        pytest.param({**V6, "udp_csum": "off"}, id="IPv6, no UDP checksum"),
        pytest.param(V6, id="IPv6"),
    ],
)
def bench_encap(measure: Measure, headers: dict[str, Any], size: str, rows: int) -> None:
    """Headers in front of frames that stay where they are."""
    spec = TunnelSpec(vni=42, **headers)
    over(measure, compile_tunnel(spec), plain(size, rows), int(size) + spec.overhead)


def bench_parse(measure: Measure, size: str, rows: int) -> None:
    """Headers found and checked, flow hashed."""
    over(measure, Parse(), plain(size, rows), int(size))


def bench_survey(measure: Measure, size: str, rows: int) -> None:
    """Packets counted by tunnel."""
    batch = vxlan(size, rows)
    Decap(PORTS, peek=True).process(batch)
    over(measure, Survey(TunnelTable()), batch, int(size) + OUTER_LEN)


def bench_reassemble_nothing(measure: Measure, size: str, rows: int) -> None:
    """What looking for fragments costs where there are none."""
    over(measure, Reassemble(), vxlan(size, rows), int(size) + OUTER_LEN)
