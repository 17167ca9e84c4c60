"""A plane's tables as iproute2 and ipvsadm print a host's, with iproute2's JSON keys; and what was counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from vxlanfast import ipvsadm
from vxlanfast._ext.verdict import RULES, SENTENCES
from vxlanfast.addr import VNI_MAX
from vxlanfast.compiled import GATEWAY
from vxlanfast.errors import SpecError
from vxlanfast.shown import Shown

Row = dict[str, Any]


def _names(plane: Shown) -> dict[int, str]:
    return {network.vni: network.name for network in plane.spec.network}


def _number(vni: object) -> Row:
    """A network's VNI, where it has one: a lan has none."""
    return {"vni": vni} if int(str(vni)) <= VNI_MAX else {}


def fdb_rows(plane: Shown) -> Iterator[Row]:
    """The forwarding table, with the keys of ``bridge -j fdb show``: a row for each place of a MAC, in order."""
    names = _names(plane)
    for row in sorted(plane.stations(), key=lambda row: (row["vni"], row["mac"])):
        name, state = names[int(str(row["vni"]))], str(row["state"])
        flags = ["sticky"] if row["frozen"] else []
        for place in str(row["place"]).split(","):
            out: Row = {"mac": row["mac"]}
            if row["remote"] and (row["vni"], place) in plane.vteps:
                out |= {"ifname": name, "dst": place, "vni": row["vni"], "flags": ["self", *flags]}
            else:
                ifname = name if place == GATEWAY else place
                out |= {"ifname": ifname, **_number(row["vni"]), "flags": flags, "master": name}
            yield out | {"state": {"learned": "", "local": "permanent"}.get(state, state)}


def fdb_lines(plane: Shown) -> Iterator[str]:
    for row in fdb_rows(plane):
        words = [row["mac"], "dev", row["ifname"]]
        for key in ("dst", "vni"):
            words += [key, row[key]] if key in row else []
        words += [*row["flags"], *(["master", row["master"]] if "master" in row else []), row["state"]]
        yield " ".join(str(word) for word in words if word != "")


def neigh_rows(plane: Shown) -> Iterator[Row]:
    """The neighbour table, with the keys of ``ip -j neigh show``."""
    names = _names(plane)
    for row in sorted(plane.neighbours(), key=lambda row: (row["vni"], len(str(row["address"])), row["address"])):
        out: Row = {"dst": row["address"], "dev": names[int(str(row["vni"]))], **_number(row["vni"])}
        out["lladdr"] = row["mac"]
        if row["router"] or row["gateway"]:
            out["router"] = None
        yield out | {"state": ["PERMANENT"]}


def neigh_lines(plane: Shown) -> Iterator[str]:
    for row in neigh_rows(plane):
        vni, router = f" vni {row['vni']}" if "vni" in row else "", " router" if "router" in row else ""
        yield f"{row['dst']} dev {row['dev']}{vni} lladdr {row['lladdr']}{router} {row['state'][0]}"


def mdb_rows(plane: Shown) -> Iterator[Row]:
    """Multicast memberships, with the keys of ``bridge -j mdb show``; group ``*``: routes multicast."""
    names = _names(plane)
    for row in sorted(plane.memberships(), key=lambda row: (row["vni"], str(row["group"]), str(row["place"]))):
        remote = (row["vni"], row["place"]) in plane.vteps
        name = names[int(str(row["vni"]))]
        yield {
            "dev": name, "port": name if remote else row["place"], "grp": row["group"], "state": "temp",
            **({"dst": row["place"]} if remote else {}), **_number(row["vni"]), "expires_ns": row["expires_ns"],
        }  # fmt: skip


def mdb_lines(plane: Shown) -> Iterator[str]:
    for row in mdb_rows(plane):
        more = "".join(f" {key} {row[key]}" for key in ("dst", "vni") if key in row)
        yield f"dev {row['dev']} port {row['port']} grp {row['grp']}{more} {row['state']}"


def vtep_rows(plane: Shown) -> Iterator[Row]:
    """The peers of each network: whether they get what is flooded, the MTU through them, and their counters."""
    names, stats = _names(plane), plane.stats()
    for (vni, vtep), flood in sorted(plane.vteps.items()):
        yield {
            "ifname": names[vni], "vni": vni, "dst": vtep, "flood": flood, "mtu": plane.spec.overlay_mtu(vtep),
            **asdict(stats.peers[vni, vtep]),
        }  # fmt: skip


def vtep_lines(plane: Shown) -> Iterator[str]:
    heads = (
        "vtep",
        "vni",
        "network",
        "flood",
        "mtu",
        "rx packets",
        "rx bytes",
        "tx packets",
        "tx bytes",
        "drops",
        "tx drops",
    )
    keys = ("rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "drops", "tx_drops")
    rows = [
        (
            r["dst"],
            r["vni"],
            r["ifname"],
            "yes" if r["flood"] else "no",
            r["mtu"] or "-",
            *(f"{r[key]:,}" for key in keys),
        )
        for r in vtep_rows(plane)
    ]
    yield from aligned(heads, rows)


def counter_row(plane: Shown) -> Row:
    """Everything counted, with names of reasons instead of numbers."""
    stats = plane.stats()
    out = asdict(stats)
    out["drops"] = {verdict.name: number for verdict, number in stats.drops.items()}
    out["send_drops"] = {verdict.name: number for verdict, number in stats.send_drops.items()}
    out["rules"] = {rule.name: number for rule, number in stats.rules.items()}
    names = _names(plane)
    nets = sorted(out["networks"].items())
    out["networks"] = [{**_number(vni), "network": names[vni], **counts} for vni, counts in nets]
    out["peers"] = [{"vni": vni, "vtep": vtep, **asdict(t)} for (vni, vtep), t in stats.peers.items()]
    return out


def counter_lines(plane: Shown) -> Iterator[str]:
    stats = plane.stats()
    yield f"{stats.packets:,} came, {stats.passed:,} passed, {sum(stats.drops.values()):,} dropped; {stats.sent:,} sent"
    heads = ("", "rx packets", "rx bytes", "tx packets", "tx bytes", "drops", "tx drops")
    rows = []
    named = [(f"port {name}", traffic) for name, traffic in stats.ports.items()]
    named += [(f"vtep {vtep} vni {vni}", traffic) for (vni, vtep), traffic in sorted(stats.peers.items())]
    networks = _names(plane)
    named += [
        (f"vni {vni}" if vni <= VNI_MAX else f"network {networks[vni]}", network.traffic)
        for vni, network in sorted(stats.networks.items())
    ]
    for name, t in named:
        numbers = (t.rx_packets, t.rx_bytes, t.tx_packets, t.tx_bytes, t.drops, t.tx_drops)
        rows.append((name, *(f"{number:,}" for number in numbers)))
    yield from aligned(heads, rows)
    mesh = stats.mesh
    if mesh.connections or mesh.opened or mesh.resets:
        counted = [("opened", mesh.opened), ("expired", mesh.expired), ("evicted for others", mesh.evicted)]
        counted += [("forged segments", mesh.forged), ("ICMP errors", mesh.errors), ("resets", mesh.resets)]
        told = ", ".join(f"{number:,} {what}" for what, number in counted if number)
        yield f"{mesh.connections:,} connections{f': {told}' if told else ''}"
    for title, reasons in (
        ("dropped", {SENTENCES[v]: n for v, n in stats.drops.items()}),
        ("dropped on the way out", {SENTENCES[v]: n for v, n in stats.send_drops.items()}),
        ("sent", {RULES[r]: n for r, n in stats.rules.items()}),
    ):
        for sentence, number in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
            yield f"{title} {number:,}: {sentence}"


def drop_row(plane: Shown) -> Row:
    """What was dropped as it came (``drops``) and on its way out (``send_drops``), by names of reasons."""
    stats = plane.stats()
    return {
        name: {verdict.name: number for verdict, number in sorted(drops.items(), key=lambda item: -item[1])}
        for name, drops in (("drops", stats.drops), ("send_drops", stats.send_drops))
    }


def drop_lines(plane: Shown) -> Iterator[str]:
    stats = plane.stats()
    both = {*stats.drops, *stats.send_drops}
    counts = [(verdict, stats.drops.get(verdict, 0), stats.send_drops.get(verdict, 0)) for verdict in both]
    counts.sort(key=lambda row: (-row[1] - row[2], row[0]))
    rows = [(verdict.name, f"{came:,}", f"{went:,}") for verdict, came, went in counts]
    told = ("", *(SENTENCES[verdict] for verdict, _, _ in counts))
    for line, sentence in zip(aligned(("reason", "in", "out"), rows), told, strict=False):
        yield f"{line}  {sentence}".rstrip()


def aligned(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A table in columns, the first at the left and the others at the right; nothing where there are no rows."""
    table = [[str(cell) for cell in row] for row in (heads, *rows)]
    if len(table) == 1:
        return
    widths = [max(len(row[i]) for row in table) for i in range(len(heads))]
    for row in table:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


Lines = Callable[[Shown], Iterator[str]]
#: What ``--show`` can show: as text, and for JSON.
TABLES: dict[str, tuple[Lines, Callable[[Shown], Any]]] = {
    "fdb": (fdb_lines, lambda plane: list(fdb_rows(plane))),
    "neigh": (neigh_lines, lambda plane: list(neigh_rows(plane))),
    "mdb": (mdb_lines, lambda plane: list(mdb_rows(plane))),
    "vtep": (vtep_lines, lambda plane: list(vtep_rows(plane))),
    "counters": (counter_lines, counter_row),
    "drops": (drop_lines, drop_row),
    "services": (ipvsadm.services_lines, ipvsadm.service_rows),
    "services:stats": (ipvsadm.stats_lines, ipvsadm.service_rows),
    "services:thresholds": (ipvsadm.thresholds_lines, ipvsadm.service_rows),
    "connections": (ipvsadm.connections_lines, lambda plane: list(plane.connections())),
    "timeouts": (ipvsadm.timeout_lines, ipvsadm.timeout_row),
}


def parse_tables(text: str) -> tuple[str, ...]:
    """``fdb,neigh`` as names of tables. SpecError: there is no such one."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in TABLES:
            raise SpecError(f"table {name!r}: {', '.join(TABLES)}")
    return names
