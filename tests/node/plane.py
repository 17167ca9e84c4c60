"""A VTEP out of tables and nodes, put together by hand; and wires between several."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from vxlanfast import TunnelSpec
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.bridge import Bridge
from vxlanfast._ext.node.proxy import Proxy
from vxlanfast._ext.node.receive import Receive
from vxlanfast._ext.node.send import Send
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.fdb import FdbTable
from vxlanfast._ext.table.neigh import NeighTable
from vxlanfast._ext.table.net import NetTable
from vxlanfast.spec import compile_tunnel

UNDERLAY = 0


class Vtep:
    """``networks``: {vni: (port numbers, VTEP addresses of the peers)}; ``policy``: of every network."""

    def __init__(
        self,
        local: str,
        networks: dict[int, tuple[Sequence[int], Sequence[str]]],
        *,
        udp_csum: str = "auto",
        zero_csum6: bool = False,
        dport: int = 4789,
        fdb: dict[str, object] | None = None,
        **policy: object,
    ) -> None:
        self.nets = NetTable(max(1, len(networks)))
        size = sum(len(ports) + len(peers) for ports, peers in networks.values())
        self.dests = DestTable(max(1, size))
        tunnels = []
        for vni, (ports, peers) in networks.items():
            net = self.nets.add(vni, **policy)
            mine = [self.dests.add_port(net, port) for port in ports]
            far = []
            for peer in peers:
                far.append(self.dests.add_peer(net, ip_address(peer).packed, UNDERLAY, len(tunnels)))
                tunnels.append(compile_tunnel(TunnelSpec(vni=vni, src=local, dst=peer, udp_csum=udp_csum)))
            self.nets.set_flood(net, mine, far)
        self.fdb = FdbTable(1 << 14, dests=max(1, size), **(fdb or {}))
        self.receive = Receive(
            self.nets, self.dests, local=[ip_address(local).packed], ports=[dport], underlay=UNDERLAY,
            zero_csum6=zero_csum6,
        )  # fmt: skip
        self.neigh = NeighTable(1000)
        self.proxy = Proxy(self.nets, self.dests, self.neigh)
        self.bridge = Bridge(self.nets, self.dests, self.fdb)
        self.send = Send(self.dests, tunnels)

    def process(self, batch: PacketBatch) -> PacketBatch:
        """All nodes, one after the other."""
        for node in (self.receive, self.proxy, self.bridge, self.send):
            node.process(batch)
        return batch

    def offer(self, port: int, frames: Sequence[bytes], ts_ns: int = 0) -> list[tuple[int, bytes]]:
        """Frames by one port: what leaves, as (port, frame)."""
        batch = self.process(PacketBatch.from_frames(frames, ts_ns=ts_ns, port_in=port))
        ports = batch.port_out
        return [(ports[i], bytes(batch.frame(i))) for i in batch.passed()]

    def verdicts(self, port: int, frames: Sequence[bytes], ts_ns: int = 0) -> list[int]:
        """Their verdicts."""
        batch = self.process(PacketBatch.from_frames(frames, ts_ns=ts_ns, port_in=port))
        return list(batch.verdict)[: len(frames)]
