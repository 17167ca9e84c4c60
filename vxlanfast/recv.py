"""A receiver of traffic mirrors: VXLAN and GENEVE that arrive here, the inner frames to a capture or a TAP device."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.tap import TapEdge
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast._ext.verdict import SENTENCES, Verdict
from vxlanfast.capture import FORMATS
from vxlanfast.checks import device_name
from vxlanfast.errors import DeviceError, SpecError
from vxlanfast.files import ETHERNET, RAW, Plan, VniSet, decap_plan
from vxlanfast.rotate import RotatingCapture
from vxlanfast.sockets import PacketEdge, UdpReceiver, open_packet, open_udp
from vxlanfast.spec import DEFAULT_PORT, DEFAULT_PORTS
from vxlanfast.tap import Tap

if TYPE_CHECKING:
    from typing import Self

    from vxlanfast.ends import Writable

__all__ = ["Received", "Receiver"]

GENEVE_PORT = 6081
#: Rows taken at a time, of all sockets together, and bytes for them.
ROWS = 1024
ARENA_LEN = 4 << 20
#: Seconds for what has arrived before ``stop``: more may arrive all the time.
REST_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """Received = written + dropped, always, where there is one output; ``drops`` by name of the verdict.

    ``kernel_drops``: what arrived while the sockets' buffers were full, and was never received. ``truncated``: longer
    than the snaplen. ``tap_written``, ``tap_refused``: frames given to the TAP device, and those that it did not
    take. ``buffer_len``: bytes of receive buffer of each socket, as the kernel counts them. ``files``: those written,
    the last hundred.
    """

    received: int
    written: int
    written_bytes: int
    drops: Mapping[str, int]
    kernel_drops: int
    truncated: int
    tap_written: int = 0
    tap_refused: int = 0
    buffer_len: int = 0
    files: tuple[str, ...] = ()
    seconds: float = 0.0
    warnings: tuple[str, ...] = field(default=())

    @property
    def dropped(self) -> int:
        """Packets received and not written."""
        return sum(self.drops.values())

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {"verb": "recv", **asdict(self), "dropped": self.dropped}

    def summary(self) -> str:
        """One line: ``10 packets received, 8 written, 2 dropped (2 VNI not asked for), 0 dropped by the kernel``."""
        parts = [f"{self.received:,} packet{'' if self.received == 1 else 's'} received", f"{self.written:,} written"]
        if self.tap_written or self.tap_refused:
            parts.append(f"{self.tap_written:,} to the TAP device")
        if self.tap_refused:
            parts.append(f"{self.tap_refused:,} refused by it")
        if self.dropped:
            reasons = sorted(self.drops.items(), key=lambda item: -item[1])
            told = "; ".join(f"{count:,} {SENTENCES[Verdict[name]]}" for name, count in reasons)
            parts.append(f"{self.dropped:,} dropped ({told})")
        if self.truncated:
            parts.append(f"{self.truncated:,} cut")
        parts.append(f"{self.kernel_drops:,} dropped by the kernel")
        return ", ".join(parts)


class Receiver:
    """Sockets that are open and listening; ``run`` takes what arrives until ``stop`` (of a signal handler, another
    thread).

    ``ports``: UDP ports of VXLAN (None: 4789, of an interface 4789 and 8472), ``geneve_ports`` of GENEVE. ``bind``:
    addresses to listen at, all of both families where there are none. ``interface``: take frames off an interface by
    a packet socket instead. ``target``: a capture, ``tap``: a TAP device, or both. ``seconds``, ``megabytes``,
    ``files``: see ``RotatingCapture``. ``count``: packets to write at most. Other options are those of
    ``decap_file``.

    SpecError, DeviceError or OutputError where something cannot be had.
    """

    def __init__(
        self, target: Writable | None, *, ports: Iterable[int] | None = None,
        geneve_ports: Iterable[int] = (GENEVE_PORT,),
        bind: Sequence[str] = (), interface: str | None = None, tap: str | None = None, vni: VniSet = None,
        levels: int | None = 1, inner: str | None = None, outer: str | None = None, meta: str = "none",
        reassemble: bool = False, strict: bool = False, format: str | None = None, snaplen: int = 262144,
        buffer_len: int = 1 << 25, count: int | None = None, seconds: int | None = None, megabytes: int | None = None,
        files: int | None = None,
    ) -> None:  # fmt: skip
        if target is None and tap is None:
            raise SpecError("nowhere to go: a capture to write or a TAP device is needed")
        if meta not in ("none", "comment"):
            raise SpecError(f"meta = {meta!r}: none or comment")
        self.format = format or "pcapng"
        if self.format not in FORMATS:
            raise SpecError(f"format {format!r}: {', '.join(FORMATS)}")
        if meta != "none" and self.format != "pcapng":
            raise SpecError(f"meta needs a pcapng output; the format asked for is {self.format}")
        if interface is not None and bind:
            raise SpecError("an address to listen at, or an interface to capture at: not both")
        self.geneve_ports = tuple(dict.fromkeys(geneve_ports))
        self.ports = tuple(dict.fromkeys(ports or (DEFAULT_PORTS if interface else (DEFAULT_PORT,))))
        self.count = count
        self.plan: Plan = decap_plan(
            ports=self.ports, geneve_ports=self.geneve_ports, vni=vni, levels=levels, inner=inner, outer=outer,
            meta=meta, reassemble=reassemble, strict=strict,
        )  # fmt: skip
        self.link = ETHERNET if interface else RAW
        self.edges: list[UdpReceiver | PacketEdge] = []
        self.output: RotatingCapture | None = None
        self.tap: Tap | None = None
        self.tap_written = self.tap_refused = 0
        self.warnings: dict[str, None] = {}
        self.stopping = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            if interface is not None:
                self.edges.append(open_packet(interface, snaplen=min(max(snaplen, 64), 262144), buffer_len=buffer_len))
            else:
                self._listen(bind, min(snaplen, 65535), buffer_len)
            if tap is not None:
                self.tap = Tap(device_name("tap", tap), attach=None, offload=False)
                self.tap.set_up()
                self.tap_edge = TapEdge(self.tap.fd)
            if target is not None:
                self.output = RotatingCapture(
                    target, self._encoder, seconds=seconds, megabytes=megabytes, files=files, ordered=reassemble
                )
        except BaseException:
            self.close()
            raise

    def _listen(self, bind: Sequence[str], snaplen: int, buffer_len: int) -> None:
        for address in bind or ("0.0.0.0", "::"):
            for port in (*self.ports, *self.geneve_ports):
                try:
                    self.edges.append(open_udp(address, port, snaplen=snaplen, buffer_len=buffer_len))
                except DeviceError as error:
                    # A host without IPv6 listens over IPv4 alone, unless it was told to do otherwise.
                    if bind or ":" not in address or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                        raise

    def _encoder(self) -> CaptureEncoder:
        plan = self.plan
        encoder = CaptureEncoder(self.format, leave=plan.leave, keep_link=plan.keep_link, mark=plan.mark)
        links = list(plan.links(self.link))
        if self.format != "pcapng":
            encoder.begin([ETHERNET])
            return encoder
        encoder.begin([])
        name = self.edges[0].name if isinstance(self.edges[0], PacketEdge) else "vxlan"
        for number, link in enumerate(links):
            encoder.add_interface(
                link, tsresol=9, options=((2, name.encode()), (3, self.where.encode())),
                parent=0 if number and plan.mark else None,
            )  # fmt: skip
        return encoder

    @property
    def where(self) -> str:
        """What it listens at, for people."""
        return ", ".join(edge.name for edge in self.edges)

    @property
    def buffer_len(self) -> int:
        """Bytes of receive buffer of each socket, as the kernel counts them: about twice the data."""
        return min(edge.edge.buffer_len for edge in self.edges)

    def stop(self) -> None:
        """End ``run`` behind what has arrived. From a signal handler, or any thread."""
        self.stopping = True
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def run(self) -> Received:
        """Take what arrives, until ``stop`` (and what had arrived by then), ``count``, the last file of -W, or nobody
        reads the output any more."""
        began = time.monotonic()
        try:
            self._loop()
        except BrokenPipeError:
            if self.output is not None:
                self.output.abort()  # nobody is there to be told the end
                return self._account(began)
        account = self._account(began)
        if self.output is not None:
            self.output.close(account.received, account.kernel_drops)
        return self._account(began)

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        edges = {edge.fileno(): edge for edge in self.edges}
        for fd in edges:
            poll.register(fd, select.POLLIN)
        reader = self._watch_reader(poll)
        batch = PacketBatch(ROWS, ARENA_LEN)
        ordinal, waits, output, end = 0, False, self.output, float("inf")
        while time.monotonic() < end:
            left = None if self.count is None else self.count - self._done()
            if left is not None and left <= 0:
                break
            stopping = self.stopping  # as it was before the look at what has arrived
            wait = 0.0 if waits else output.wait_s(time.time()) if output is not None else None
            ready = poll.poll(None if wait is None else wait * 1000 + (1 if wait else 0))
            if output is not None:
                if not ready and waits:
                    output.flush()  # nothing to do but to make what there is readable
                    waits = False
                output.tick(time.time())
                if output.done:
                    break
            if any(fd == reader for fd, _ in ready):
                raise BrokenPipeError
            if stopping:
                if not any(fd in edges for fd, _ in ready):
                    break
                end = min(end, time.monotonic() + REST_S)
            batch.clear()
            for fd, _ in ready:
                if fd in edges:
                    room = ROWS - len(batch) if left is None else min(ROWS, left) - len(batch)
                    self._receive(edges[fd], batch, room // max(1, len(ready) - 1) or room)
            if not len(batch):
                continue
            packets = len(batch)
            for step in self.plan.steps:
                step(batch, ordinal)
            ordinal += packets
            if self.tap is not None:
                written, refused = self.tap_edge.write(batch)
                self.tap_written += written
                self.tap_refused += refused
            if output is not None:
                output.write(batch)
                waits = not output.is_live

    def _done(self) -> int:
        return self.output.written if self.output is not None else self.tap_written

    def _watch_reader(self, poll: select.poll) -> int | None:
        """A pipe whose reader goes away says so at once, and not with the next packet."""
        if self.output is None or not self.output.is_live:
            return None
        fd = self.output.sink.fileno_or_none()
        if fd is not None:
            poll.register(fd, 0)
        return fd

    def _receive(self, edge: UdpReceiver | PacketEdge, batch: PacketBatch, limit: int) -> None:
        if limit <= 0:
            return
        try:
            edge.edge.receive(batch, 0, limit)
        except OSError as error:
            if isinstance(edge, PacketEdge):
                try:
                    socket.if_nametoindex(edge.name)
                except OSError:
                    raise DeviceError(f"{edge.name}: the interface is gone", errno=errno.ENODEV) from error
            self.warnings[f"{edge.name}: {error.strerror}"] = None

    def _account(self, began: float) -> Received:
        drops: dict[str, int] = {}
        for node in self.plan.nodes:
            for verdict, number in node.counters().items():
                if verdict:
                    drops[verdict.name] = drops.get(verdict.name, 0) + number
        written, size, refused = self.output.totals if self.output is not None else (0, 0, 0)
        if refused:
            drops[Verdict.DROP_OUTPUT_LINK_TYPE.name] = refused
        counters = [edge.edge.counters() for edge in self.edges]
        missed = sum(counter["rx_drops"] for counter in counters)
        warnings = list(self.warnings)
        if missed:
            warnings.append(
                f"the kernel dropped {missed:,} packets: sysctl net.core.rmem_max or CAP_NET_ADMIN allow a larger"
                f" receive buffer than {self.buffer_len >> 10:,} KiB"
            )
        return Received(
            received=sum(counter["rx_packets"] for counter in counters),
            written=written if self.output is not None else self.tap_written,
            written_bytes=size,
            drops=drops,
            kernel_drops=missed,
            truncated=sum(counter["rx_truncated"] for counter in counters),
            tap_written=self.tap_written,
            tap_refused=self.tap_refused,
            buffer_len=self.buffer_len,
            files=tuple(self.output.names) if self.output is not None else (),
            seconds=time.monotonic() - began,
            warnings=tuple(warnings),
        )

    def close(self) -> None:
        """Close the sockets and the TAP device; an output that ``run`` has not ended stays as it is."""
        for edge in self.edges:
            edge.close()
        if self.tap is not None:
            self.tap.close()
        if self.output is not None:
            self.output.abort()
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
