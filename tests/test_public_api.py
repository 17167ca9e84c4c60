"""The public names, as a text to be read: a change of it is a change of the interface, and belongs in CHANGELOG.md."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
from enum import IntEnum

import pytest

import vxlanfast as vf
from tests.support import PYTHON, VERBS_ENV

SNAPSHOT = """\
Candidate (tuple)
    property active
    property address
    property inactive
    property port
    property weight
Capture
    __init__(target: Readable, *, count: int | None = None) -> None
    batches() -> Iterator[PacketBatch]
    close() -> None
    property fault
    fill(batch: PacketBatch) -> int
    property is_large
    make_batch(*, large: bool | None = None) -> PacketBatch
    property name
CaptureError (VxlanFastError, ValueError)
    __init__(message: str, *, path: str | None = None, offset: int | None = None, stats: object = None) -> None
CaptureWriter
    __init__(target: Writable, *, format: str = 'pcap', links: Sequence[int] = (1,), snaplen: int = 262144)
    close() -> None
    write(batch: PacketBatch) -> None
Dataplane
    __init__(spec: NodeSpec) -> None
    add_server(service: str, server: ServerSpec) -> None
    apply(spec: NodeSpec | Prepared) -> int
    connection(number: int) -> dict[str, Any] | None
    connections(now_ns: int | None = None) -> Iterator[dict[str, Any]]
    counted() -> Callable[[], PlaneStats]
    delete_neighbour(vni: int, address: str) -> bool
    delete_station(vni: int, mac: str) -> bool
    explain(batch: PacketBatch, *, first: int = 1) -> list[Decision]
    memberships() -> Iterator[dict[str, object]]
    neighbour(vni: int, address: str) -> dict[str, object] | None
    neighbours() -> Iterator[dict[str, object]]
    net_number(vni: int) -> int
    property not_udp
    number_of(port: str) -> int
    offer(port: str, *frames: bytes, now_ns: int = 0) -> list[tuple[str, bytes]]
    place_names() -> dict[int, Place]
    property port_names
    property ports
    prepare(spec: NodeSpec) -> Prepared
    process(batch: PacketBatch, *, explain: bool = False) -> PacketBatch
    remove_server(service: str, address: str, port: int = 0, *, now_ns: int = 0) -> int
    servers_of(service: str) -> Iterator[tuple[bytes, int, int]]
    services() -> Iterator[dict[str, Any]]
    set_cursor(service: str, address: str, port: int = 0) -> None
    set_mesh(**change: bool) -> None
    set_neighbour(vni: int, address: str, mac: str, place: str | None = None, *, router: bool = False) -> None
    set_path_mtu(vtep: str, mtu: int | None) -> bool
    set_server(service: str, address: str, port: int = 0, **change: int) -> None
    set_station(vni: int, mac: str, *places: str) -> None
    property spec
    station(vni: int, mac: str) -> dict[str, object] | None
    stations() -> Iterator[dict[str, object]]
    stats() -> PlaneStats
    tick(now_ns: int) -> PacketBatch
    translations() -> dict[int, Translation]
    verify() -> Drift
    vni_of(port: str) -> int | None
    property vteps
Decapsulated
    vni: int
    inner: memoryview
    outer: Outer
    to_scapy() -> Any
Decision
    packet: int
    ts_ns: int
    port: str
    vni: int | None
    src: str | None
    dst: str | None
    to: str | None
    place: str | None
    name: str
    reason: str
    detail: str
    length: int
    translation: Translation | None = None
    as_dict() -> dict[str, object]
Departure
    ts_ns: int
    port_in: str
    number: int
    verdict: Verdict
    rule: Rule
    port: str | None
    frame: bytes
    conn: int | None
DeviceError (_SystemError)
Drift
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
EndpointSpec
    port: str | None = None
    vtep: str | tuple[str, ...] | None = None
    mac: str | None = None
    ip: tuple[str, ...] = ()
    router: bool = False
    name: str = ''
    aliases: tuple[str, ...] = ()
    property address
    property vteps
FilterError (VxlanFastError, ValueError)
Flow (tuple)
    property address
    property client
    property client_port
    property port
FromKernel
    __init__(devices: Sequence[str], namespace: Namespace = None) -> None
    close() -> None
    followed() -> dict[str, Any]
    rebase(base: NodeSpec) -> None
    snapshot(base: NodeSpec) -> NodeSpec
    start(
    plane: Dataplane,
    lock: threading.RLock | threading.Lock | None,
    apply: Apply,
) -> asyncio.Task[None]
GatewayLeg
    address: str
    mac: str = '00:00:00:00:00:00'
    bridge_mac: str = '00:00:00:00:00:00'
Hop
    name: str
    frame: bytes
LiveNode
    __init__(
    spec: NodeSpec,
    *,
    source: Callable[[], NodeSpec] | None = None,
    log: Log | None = None,
    from_kernel: Sequence[str] = (),
    kernel_namespace: str | None = None,
) -> None
    drain(seconds: float) -> bool
    inject(port: str, frames: list[bytes]) -> None
    io_counters() -> dict[str, dict[str, int]]
    property lock
    reload(spec: NodeSpec | None = None) -> None
    property spec
    start() -> None
    stop() -> None
LiveSpec
    underlay: str = 'auto'
    device: str = 'vf-underlay'
    device_address: tuple[str, ...] = ()
    spread: int = 16
    receive_buffer: int = 2097152
    offload: bool = True
    cpu: int = -1
    busy_poll_us: int = 0
    drain_s: int = 0
    control: str = ''
    metrics: str = ''
    upstream: tuple[str, ...] = ()
    tap: tuple[TapSpec, ...] = ()
MeshCounts
    connections: int = 0
    opened: int = 0
    expired: int = 0
    evicted: int = 0
    forged: int = 0
    errors: int = 0
    resets: int = 0
MeshSpec
    profile: str = 'fixed'
    semantics: str = 'fixed'
    connections: int = 1048576
    source_limit: int = 0
    services: int = 1024
    servers: int = 16384
    tcp_s: int = 900
    fin_s: int = 120
    udp_s: int = 300
    reuse: bool = True
    forget: bool = False
    sloppy: bool = False
    seed: int | None = None
MissingLibraryError (VxlanFastError, ImportError)
NetworkSpec
    name: str
    vni: int = -1
    lan: bool = False
    domain: str = ''
    subnet: tuple[str, ...] = ()
    gateway: tuple[str, ...] = ()
    gateway_mac: str | None = None
    router_mac: str | None = None
    own: tuple[str, ...] = ()
    resolver: tuple[str, ...] = ()
    resolver_port: str = ''
    outside: str = ''
    internal: bool = False
    preserve_source: bool = False
    guard: bool = False
    hops: int | None = None
    learn: bool = True
    flood: str = 'head-end'
    proxy: bool = False
    unknown_neighbours: str = 'flood'
    tags: bool = False
    gbp: bool = False
    bum_rate: int = 0
    learned_limit: int = 8192
    snoop: bool = True
    mss_clamp: bool = False
    endpoint: tuple[EndpointSpec, ...] = ()
    peer: tuple[PeerSpec, ...] = ()
    route: tuple[RouteSpec, ...] = ()
    property aliases
    property here
    property members
    property port_of_resolver
    property ports
    property resolver_mac
    property routed_with
    property several
NetworkTraffic
    traffic: Traffic
    strangers: int
    flooded: int
    copies: int
    limited: int
NodeSpec
    vtep: tuple[str, ...]
    name: str = 'node'
    port: int = 4789
    ageing_s: int = 300
    stations: int = 131072
    neighbours: int = 65536
    memberships: int = 8192
    mtu: int = 1500
    router_mac: str | None = None
    ttl: int = 64
    dscp: int | str = 0
    df: bool = False
    udp_csum: str = 'auto'
    zero_csum6: bool = False
    reassemble: bool = True
    seed: int = 0
    network: tuple[NetworkSpec, ...] = ()
    mesh: MeshSpec = MeshSpec()
    service: tuple[ServiceSpec, ...] = ()
    live: LiveSpec = LiveSpec()
    property domains
    property expanded
    overlay_mtu(vtep: str) -> int
    property own_mac
    property ports
    vtep_for(other: str) -> str
NotVxlan (VxlanFastError, ValueError)
    __init__(message: str, *, verdict: int) -> None
Outer
    src: str
    dst: str
    sport: int
    dport: int
    ttl: int
    dscp: int
    ecn: int
    vxlan_flags: int
    headers: memoryview
OutputError (_SystemError)
PacketBatch
    property arena
    assign_ports(ports)
    blocks()
    clear()
    property conn
    copy()
    counts()
    property cut
    property dest
    enter_by(ports)
    property exports
    property flow
    frame(i)
    classmethod from_frames(frames, *, ts_ns = 0, link = 1, port_in = 0)
    group_by_port(leave = 1)
    property gso
    property head_lengths
    property l3
    property l4
    leave_by_ports()
    property lengths
    property link
    property memory
    note(notes)
    note_by(texts, which)
    property offsets
    property origin
    passed()
    pick(*, dropped = False, port_in = -1, port_out = -1, nets = None, snaplen = 4294967295)
    property port_in
    property port_out
    property rule
    sources()
    property ts_ns
    property verdict
    property vni
    property wire_lengths
PeerSpec
    vtep: str
    flood: bool = True
    rx_from: tuple[str, ...] = ()
PlaneStats
    packets: int
    passed: int
    sent: int
    flooded: int
    copies: int
    answered: int
    errors: int
    fragmented: int
    fragments: int
    clamped: int
    drops: Mapping[Verdict, int]
    send_drops: Mapping[Verdict, int]
    rules: Mapping[Rule, int]
    ports: Mapping[str, Traffic]
    peers: Mapping[Place, Traffic]
    networks: Mapping[int, NetworkTraffic]
    mesh: MeshCounts = MeshCounts(connections=0, opened=0, expired=0, evicted=0, forged=0, errors=0, resets=0)
    fdb: Mapping[str, int] = dict()
PublishSpec
    network: str
    published: int | str
    target: int = 0
    protocol: str = 'tcp'
    mode: str = 'ingress'
    bind: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
Replayed
    packets: int
    written: int
    stats: PlaneStats
    interrupted: bool = False
    warnings: tuple[str, ...] = ()
    summary() -> str
RouteSpec
    to: str
    via: str
Rule (IntEnum)
    RULE_NONE = 0
    RULE_ENTRY = 1
    RULE_PLACES = 2
    RULE_LEARNED = 3
    RULE_SET = 4
    RULE_BROADCAST = 8
    RULE_UNKNOWN = 9
    RULE_MULTICAST = 10
    RULE_GROUP = 11
    RULE_REPORT = 12
    RULE_ARP = 16
    RULE_ND = 17
    RULE_ECHO = 18
    RULE_ROUTED = 24
    RULE_FRAGMENTED = 25
    RULE_BALANCED = 26
    RULE_RETURNED = 27
    RULE_MASQUERADED = 28
    RULE_RELATED = 29
    RULE_RECUT = 30
    RULE_TTL = 32
    RULE_NO_ROUTE = 33
    RULE_NO_NEIGHBOUR = 34
    RULE_REFUSED = 35
    RULE_TOO_BIG = 36
    RULE_NO_SERVER = 37
    RULE_RESET = 38
ServerSpec
    address: str
    port: int = 0
    weight: int = 1
    upper: int = 0
    lower: int = 0
ServiceSpec
    name: str
    scheduler: str | SchedulerFunction = 'rr'
    fallback: bool = False
    with_port: bool = False
    masquerade: tuple[str, ...] = ()
    removal: str = 'drain'
    reset_idle: bool = False
    persistent_s: int = 0
    persistent4: int = 32
    persistent6: int = 128
    tcp_s: int = 0
    fin_s: int = 0
    udp_s: int = 0
    servers_in: str = ''
    aliases: tuple[str, ...] = ()
    dns: str = 'vip'
    virtual: tuple[VirtualSpec, ...] = ()
    publish: tuple[PublishSpec, ...] = ()
    server: tuple[ServerSpec, ...] = ()
    property families
    property home
SpecError (VxlanFastError, ValueError)
Stats
    verb: str
    packets: int
    passed: int
    kept: int
    drops: Mapping[str, int]
    others: int = 0
    strict_drops: int = 0
    unsupported: int = 0
    written: int
    written_bytes: int
    input_bytes: int | None = None
    seconds: float = 0.0
    interrupted: bool = False
    fault: str | None = None
    warnings: tuple[str, ...] = ()
    details: Mapping[str, int] = dict()
    files: Mapping[str, int] = dict()
    as_dict() -> dict[str, object]
    property dropped
    property rate
    summary() -> str
Survey
    name: str
    format: str
    compression: str | None
    links: tuple[int, ...]
    networks: tuple[Network, ...]
    stats: Stats
    as_dict() -> dict[str, object]
TableFullError (VxlanFastError)
TapSpec
    port: str
    name: str = ''
    namespace: str = ''
    attach: bool = False
    address: tuple[str, ...] = ()
    route: bool = False
    mtu: int = 0
    offload: bool = True
    property device
Traffic
    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    drops: int = 0
    tx_drops: int = 0
Translation
    service: str | None
    server: str | None
    connection: int | None
    opened: bool
    by: str | None
    before: str
    after: str | None
TunnelSpec
    vni: int
    src: str
    dst: str
    smac: str | None = None
    dmac: str | None = None
    port: int = 4789
    sport: int | None = None
    ttl: int = 64
    dscp: int | str = 0
    df: bool = False
    udp_csum: str = 'auto'
    mtu: int | None = None
    mtu_policy: str = 'warn'
    seed: int = 0
    property overhead
    property writes_csum
Verdict (IntEnum)
    PASS = 0
    PUNT_NOT_IP = 1
    PUNT_NOT_UDP = 2
    PUNT_PORT = 3
    PUNT_FRAGMENT = 4
    PUNT_GPE = 5
    PUNT_LINK_TYPE = 6
    PUNT_GENEVE = 7
    DROP_TRUNCATED = 16
    DROP_IP_HEADER = 17
    DROP_IP_LEN = 18
    DROP_UDP_LEN = 19
    DROP_NO_VNI = 20
    DROP_INNER_RUNT = 21
    DROP_VXLAN_LEN = 22
    DROP_L4_HEADER = 23
    DROP_RESERVED = 24
    DROP_IP_CSUM = 25
    DROP_UDP_CSUM = 26
    DROP_UDP_NO_CSUM = 27
    DROP_GENEVE = 28
    DROP_FRAGMENT_HELD = 33
    DROP_FRAGMENT_OVERLAP = 34
    DROP_FRAGMENT_BAD = 35
    DROP_FRAGMENT_DUPLICATE = 36
    DROP_FILTER_VNI = 40
    DROP_FILTER_OUTER = 41
    DROP_FILTER_INNER = 42
    DROP_NOT_ETHERNET = 48
    DROP_MTU = 49
    DROP_TOO_LONG = 50
    DROP_NO_HEADROOM = 51
    DROP_NO_META = 52
    DROP_OUTPUT_LINK_TYPE = 56
    DROP_PORT_UNKNOWN = 64
    DROP_VNI_UNKNOWN = 65
    DROP_VTEP_OTHER = 66
    DROP_VTEP_UNKNOWN = 67
    DROP_INNER_SOURCE = 68
    DROP_INNER_HEADER = 69
    DROP_INNER_TAG = 70
    DROP_ECN = 71
    DROP_STATION_ELSEWHERE = 80
    DROP_STATION_FROZEN = 81
    DROP_SAME_PORT = 82
    DROP_SPLIT_HORIZON = 83
    DROP_NO_ENTRY = 84
    DROP_NO_RECEIVER = 85
    DROP_BUM_RATE = 86
    DROP_GROUP_EMPTY = 87
    DROP_OVER_MTU = 88
    DROP_NEIGH_FALSE = 96
    DROP_NEIGH_UNKNOWN = 97
    DROP_GATEWAY_REMOTE = 100
    DROP_GATEWAY_REFUSED = 101
    DROP_MARTIAN = 102
    DROP_TTL = 103
    DROP_NO_ROUTE = 104
    DROP_NO_NEIGHBOUR = 105
    DROP_NO_SERVER = 116
    DROP_SERVER_GONE = 117
    DROP_CONN_FULL = 118
    DROP_SOURCE_FULL = 119
    DROP_PORTS_FULL = 120
    DROP_UNRELATED = 121
    DROP_SOURCE_REFUSED = 122
    DROP_INTERNAL = 123
    DROP_PORT_CLOSED = 124
    DROP_ENTRY_GONE = 125
    DROP_INNER_FRAGMENT_HELD = 112
    DROP_INNER_FRAGMENT_OVERLAP = 113
    DROP_INNER_FRAGMENT_BAD = 114
    DROP_INNER_FRAGMENT_DUPLICATE = 115
VirtualSpec
    network: str
    address: str
    protocol: str = 'any'
    port: int | str = 0
    target: int = 0
    sources: tuple[str, ...] = ()
    property ports
VxlanFastError (Exception)
Way
    hops: tuple[Hop, ...]
    port: str | None
    verdict: Verdict
    rule: Rule
    property frame
arrivals(port: str, source: Readable, keep: Callable[[bytes], bool] | None = None) -> Iterator[Arrival]
decap(
    packet: Buffer,
    *,
    ports: Iterable[int] = (4789, 8472),
    link: int = 1,
    strict: bool = False,
    wire_len: int | None = None,
) -> Decapsulated
decap_batch(
    batch: PacketBatch,
    *,
    ports: Iterable[int] = (4789, 8472),
    levels: int | None = 1,
    strict: bool = False,
) -> PacketBatch
decap_file(
    source: Readable,
    target: Writable,
    *,
    ports: Iterable[int] = (4789, 8472),
    geneve_ports: Iterable[int] = (),
    vni: VniSet = None,
    levels: int | None = 1,
    other: str = 'drop',
    strict: bool = False,
    reassemble: bool = False,
    inner: str | None = None,
    outer: str | None = None,
    meta: str = 'none',
    format: str | None = None,
    count: int | None = None,
    threads: int | None = 1,
    watch: Watch | None = None,
) -> Stats
encap(frame: Buffer, vni: int, src: str, dst: str, **headers: Any) -> bytes
encap_batch(batch: PacketBatch, tunnel: TunnelSpec, *, ordinal: int = 0) -> PacketBatch
encap_file(
    source: Readable,
    target: Writable,
    tunnel: TunnelSpec,
    *,
    inner: str | None = None,
    format: str | None = None,
    count: int | None = None,
    threads: int | None = 1,
    watch: Watch | None = None,
) -> Stats
encap_with(tunnel: TunnelSpec, frame: Buffer) -> bytes
hops_of(
    plane: Dataplane,
    port: str,
    frame: bytes,
    *,
    now_ns: int = 0,
    gateway: GatewayLeg | None = None,
) -> list[Way]
load_spec(path: str | PathLike[str]) -> NodeSpec
networks_from_docker(inspect: Json | Mapping[str, Json], *, host: str) -> tuple[NetworkSpec, ...]
open_capture(target: Readable, *, count: int | None = None) -> Capture
parse_spec(text: str, source: str = 'node.toml') -> NodeSpec
replay_file(
    plane: Dataplane,
    source: Readable,
    target: Writable | None = None,
    *,
    port: str | Mapping[str, str] | None = None,
    explain: Callable[[Decision], object] | None = None,
    meta: str = 'none',
    count: int | None = None,
    watch: Watch | None = None,
) -> Replayed
replay_timed(
    plane: Dataplane,
    frames: Iterable[Arrival] | Mapping[str, Iterable[Arrival]],
    changes: Iterable[Change] = (),
) -> Iterator[Departure]
restore_file(
    source: Readable,
    target: Writable,
    *,
    other: str = 'keep',
    format: str | None = None,
    count: int | None = None,
    watch: Watch | None = None,
) -> Stats
services_from_ipvsadm(
    text: str | bytes,
    *,
    network: str,
    servers_in: str = '',
    marks: Mapping[int, Sequence[VirtualSpec]] | None = None,
) -> tuple[ServiceSpec, ...]
spec_from_docker(
    inspect: Json | Mapping[str, Json],
    *,
    vtep: str,
    name: str = 'node',
    port: int = 4789,
    services: Json = (),
    lan: NetworkSpec | None = None,
    profile: str = 'fixed',
) -> NodeSpec
spec_from_host(
    links: Json,
    fdb: Json,
    neigh: Json = (),
    *,
    vtep: Sequence[str] = (),
    name: str = 'node',
) -> NodeSpec
split_file(
    source: Readable,
    pattern: str | os.PathLike[str],
    *,
    ports: Iterable[int] = (4789, 8472),
    vni: VniSet = None,
    decap: bool = False,
    other: str = 'drop',
    strict: bool = False,
    reassemble: bool = False,
    inner: str | None = None,
    outer: str | None = None,
    format: str | None = None,
    count: int | None = None,
    watch: Watch | None = None,
) -> tuple[Stats, dict[str, int]]
survey_file(
    source: Readable,
    *,
    ports: Iterable[int] = (4789, 8472),
    vni: VniSet = None,
    reassemble: bool = False,
    inner: str | None = None,
    outer: str | None = None,
    count: int | None = None,
    watch: Watch | None = None,
) -> Survey
to_ipvsadm(services: Iterable[ServiceSpec], *, marks: Mapping[str, int] | None = None) -> str
to_toml(spec: NodeSpec) -> str
"""


def signature(function: object) -> str:
    """Parameters with their types and defaults, and what is returned."""
    parts: list[str] = []
    described = inspect.signature(function)  # type: ignore[arg-type]
    keyword_only = False
    for parameter in described.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parts.append("*")
        keyword_only |= parameter.kind is parameter.VAR_POSITIONAL
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        text = stars + parameter.name
        # The core says its types in its .pyi files.
        if isinstance(parameter.annotation, str) and parameter.annotation is not parameter.empty:
            text += f": {parameter.annotation}"
        if parameter.default is not parameter.empty:
            text += f" = {parameter.default!r}"
        parts.append(text)
    returned = f" -> {described.return_annotation}" if isinstance(described.return_annotation, str) else ""
    line = f"({', '.join(parts)}){returned}"
    return line if len(line) < 100 else "(\n" + "".join(f"    {part},\n" for part in parts) + f"){returned}"


def members(cls: type) -> list[str]:
    lines = []
    if dataclasses.is_dataclass(cls):
        for field in dataclasses.fields(cls):
            given = field.default is not dataclasses.MISSING
            default = f" = {field.default!r}" if given else ""
            if field.default_factory is not dataclasses.MISSING:
                default = f" = {field.default_factory.__name__}()"
            lines.append(f"    {field.name}: {field.type}{default}")
    elif inspect.isfunction(cls.__dict__.get("__init__")):
        lines.append(f"    __init__{signature(cls.__dict__['__init__'])}")
    for name, value in sorted(cls.__dict__.items()):
        if name.startswith("_"):
            continue
        if isinstance(value, classmethod | staticmethod):
            lines.append(f"    {type(value).__name__} {name}{signature(getattr(cls, name))}")
        elif inspect.isdatadescriptor(value):
            if not inspect.ismemberdescriptor(value):  # a field's slot
                lines.append(f"    property {name}")
        elif callable(value):
            lines.append(f"    {name}{signature(value)}")
    return lines


def interface() -> str:
    lines = []
    for name in vf.__all__:
        value = getattr(vf, name)
        if not isinstance(value, type):
            lines.append(f"{name}{signature(value)}")
            continue
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        if issubclass(value, IntEnum):
            lines += [f"{name} (IntEnum)", *(f"    {member.name} = {int(member)}" for member in value)]
        else:
            lines += [f"{name}{f' ({bases})' if bases else ''}", *members(value)]
    return "\n".join(lines) + "\n"


def test_interface() -> None:
    assert interface() == SNAPSHOT


def test_names() -> None:
    assert vf.__all__ == sorted(vf.__all__)
    assert set(vf.__all__) < set(dir(vf))
    with pytest.raises(AttributeError, match="'vxlanfast' has no attribute 'decapsulate'"):
        vf.decapsulate  # noqa: B018


@pytest.mark.parametrize("name", vf.__all__)
def test_every_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(vf, name))


@pytest.mark.parametrize(("name", "code", "also"), [
    ("CaptureError", 1, ValueError),
    ("OutputError", 1, OSError),
    ("MissingLibraryError", 1, ImportError),
    ("NotVxlan", 1, ValueError),
    ("SpecError", 2, ValueError),
    ("FilterError", 2, ValueError),
])  # fmt: skip
def test_errors(name: str, code: int, also: type[Exception]) -> None:
    error = getattr(vf, name)
    assert issubclass(error, vf.VxlanFastError) and issubclass(error, also)
    assert error.exit_code == code


HEAVY = ("click", "rich", "dataclasses", "typing", "inspect", "re", "ctypes", "vxlanfast._ext.batch")


@pytest.mark.parametrize(("statement", "heavy"), [
    ("import vxlanfast", HEAVY),
    ("from vxlanfast import Verdict, PacketBatch", ("click", "rich", "dataclasses", "scapy")),
    ("from vxlanfast import decap, encap, decap_file, open_capture", ("click", "rich", "scapy", "ctypes", "isal")),
])  # fmt: skip
def test_imports_little(statement: str, heavy: tuple[str, ...]) -> None:
    """What an import adds, to an interpreter that may have come with something already."""
    program = f"import sys; had = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - had))"
    run = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, check=True, env=VERBS_ENV)
    loaded = run.stdout.split()
    assert "vxlanfast" in loaded
    assert not set(heavy) & set(loaded), loaded
