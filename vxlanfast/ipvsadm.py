"""Services and connections as ``ipvsadm`` prints a kernel's: the same columns, in its order; and as rows for JSON.

A service of several addresses or ports, which in a kernel is a firewall mark's, stands as the first of them, and the
others follow it as lines that begin with ``+``. ``ANY`` is any port of any protocol, port 0 of one is any of its.
Connections are in the order of their numbers in the table, as a kernel's are in that of its hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from vxlanfast.ipvsadm_rules import host_port, mask_of, scheduler_flags
from vxlanfast.service_spec import ALL_PORTS, PROTOCOLS

if TYPE_CHECKING:
    from vxlanfast.shown import Shown

Row = dict[str, Any]

#: The version of IPVS whose words and semantics these are.
VERSION = "1.2.1"
#: Figures of ``--stats``, by their keys.
STATS = ("connections", "in_packets", "out_packets", "in_bytes", "out_bytes")


def _place(match: Row) -> str:
    first, last = match["port"], match["last"]
    ports = 0 if (first, last) == ALL_PORTS else first if first == last else f"{first}-{last}"
    return f"{match['protocol'].upper():<4} {host_port(match['address'], ports)}"


def _order(match: Row) -> tuple[int, bytes, int, str]:
    return PROTOCOLS[match["protocol"]], ip_address(match["address"]).packed, match["port"], match["domain"]


def service_rows(plane: Shown) -> list[Row]:
    """Services as ipvsadm sorts them: by family, protocol, address and port; their servers by address and port.

    Keys: name, family, scheduler, flags, persistent_s, mask, virtual, servers; what each has carried.
    """
    rows = []
    for service in plane.services():
        flags = scheduler_flags(service["scheduler"], service["fallback"], service["with_port"])
        servers = sorted(service["servers"], key=lambda server: (ip_address(server["addr"]).packed, server["port"]))
        rows.append(
            {
                "name": service["name"], "family": service["family"],
                "virtual": sorted(service["virtual"], key=_order),
                "scheduler": service["scheduler"], "flags": flags, "persistent_s": service["persistent_s"],
                "mask": mask_of(service["family"], service["persistent_len"]) if service["persistent_s"] else "",
                **{key: service[key] for key in (*STATS, "refused")},
                "servers": [
                    {
                        "address": server["addr"], "port": server["port"], "forward": "masq",
                        **{key: server[key] for key in ("weight", "upper", "lower", "active", "inactive", *STATS)},
                    }
                    for server in servers
                ],
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: (row["family"], *map(_order, row["virtual"][:1]), row["name"]))


def _how(row: Row) -> str:
    """The scheduler with its flags, and persistence."""
    words = [row["scheduler"]]
    if row["flags"]:
        words.append(f"({','.join(row['flags'])})")
    if row["persistent_s"]:
        words += ["persistent", str(row["persistent_s"])]
        words += ["mask", row["mask"]] if row["mask"] else []
    return " ".join(words)


def large(number: int) -> str:
    """A figure of ``--stats``, nine characters wide: from a hundred million on in thousands (K), and so on."""
    for limit, divisor, suffix in (
        (10**8, 1, ""), (10**9, 10**3, "K"), (10**11, 10**6, "M"), (10**14, 10**9, "G")
    ):  # fmt: skip
        if number < limit:
            return f"{number // divisor}{suffix}".rjust(9)
    return f"{number // 10**12}T".rjust(9)


def _figures(row: Row) -> str:
    return "".join(large(row[key]) for key in STATS)


def _table(
    plane: Shown, heads: tuple[str, ...], service: Callable[[str, Row], str], server: Callable[[Row], str]
) -> Iterator[str]:
    yield f"IP Virtual Server version {VERSION} (size={plane.spec.mesh.connections})"
    yield from heads
    for row in service_rows(plane):
        places = [_place(match) for match in row["virtual"]]
        yield service(places[0], row)
        for place in places[1:]:
            yield f"  +  {place}"
        for one in row["servers"]:
            yield f"  -> {host_port(one['address'], one['port']):<28}{server(one)}"


def services_lines(plane: Shown) -> Iterator[str]:
    """As ``ipvsadm -Ln``."""
    heads = (
        "Prot LocalAddress:Port Scheduler Flags",
        "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
    )
    return _table(
        plane, heads, lambda place, row: f"{place} {_how(row)}",
        lambda one: f" {'Masq':<7} {one['weight']:<6} {one['active']:<10} {one['inactive']:<10}",
    )  # fmt: skip


def stats_lines(plane: Shown) -> Iterator[str]:
    """As ``ipvsadm -Ln --stats``: connections, packets and bytes of clients and of servers, whole IP packets."""
    heads = (
        "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes",
        "  -> RemoteAddress:Port",
    )
    return _table(plane, heads, lambda place, row: f"{place:<33}{_figures(row)}", _figures)


def thresholds_lines(plane: Shown) -> Iterator[str]:
    """As ``ipvsadm -Ln --thresholds``."""
    heads = (
        "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn ",
        "  -> RemoteAddress:Port",
    )
    keys = ("upper", "lower", "active", "inactive")
    return _table(
        plane, heads, lambda place, row: f"{place} {_how(row)}",
        lambda one: "".join(f" {one[key]:<10}" for key in keys),
    )  # fmt: skip


def timeout_row(plane: Shown) -> Row:
    """Seconds after which silent connections go."""
    mesh = plane.spec.mesh
    return {"tcp_s": mesh.tcp_s, "fin_s": mesh.fin_s, "udp_s": mesh.udp_s}


def timeout_lines(plane: Shown) -> Iterator[str]:
    """As ``ipvsadm -Ln --timeout``."""
    yield f"Timeout (tcp tcpfin udp): {' '.join(map(str, timeout_row(plane).values()))}"


def connections_lines(plane: Shown, now_ns: int | None = None) -> Iterator[str]:
    """As ``ipvsadm -Lnc``, at a time (None: that of the last packet)."""
    yield "IPVS connection entries"
    yield "pro expire state       source             virtual            destination"
    for row in plane.connections(now_ns):
        minutes, seconds = divmod(row["left_s"], 60)
        ends = [host_port(row[host], row[port]) for host, port in _ENDS]
        yield (
            f"{row['protocol']:<3} {f'{minutes:02}:{seconds:02}':<6} {row['state']:<11} {ends[0]:<18} {ends[1]:<18}"
            f" {ends[2]}"
        )


_ENDS = (("client", "cport"), ("virtual", "vport"), ("server", "port"))


def _text(lines: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def services_text(plane: Shown) -> str:
    """What ``ipvsadm -Ln`` would print of the plane."""
    return _text(services_lines(plane))


def services_stats(plane: Shown) -> str:
    """What ``ipvsadm -Ln --stats`` would print of the plane."""
    return _text(stats_lines(plane))


def services_thresholds(plane: Shown) -> str:
    """What ``ipvsadm -Ln --thresholds`` would print of the plane."""
    return _text(thresholds_lines(plane))


def timeout_text(plane: Shown) -> str:
    """What ``ipvsadm -Ln --timeout`` would print of the plane."""
    return _text(timeout_lines(plane))


def connections_text(plane: Shown, now_ns: int | None = None) -> str:
    """What ``ipvsadm -Lnc`` would print of the plane at a time (None: that of the last packet)."""
    return _text(connections_lines(plane, now_ns))
