"""tcpdump's filter expressions, compiled by the system's libpcap and run over batches.

libpcap is loaded when the first expression is compiled. It is called once for each link type; packets go from the
core straight to its ``bpf_filter``, without Python.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from vxlanfast._ext.node.filter import Filter
from vxlanfast.errors import FilterError, MissingLibraryError
from vxlanfast.linktypes import link_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vxlanfast._ext.batch import PacketBatch
    from vxlanfast._ext.verdict import Verdict

__all__ = ["CompiledFilter", "PacketFilter", "compile_filter"]

MISSING = (
    "--inner/--outer filters need libpcap: apt install libpcap0.8 (Debian), dnf install libpcap (Fedora)"
)
INSN_LEN = 8  # bytes of a struct bpf_insn
INSNS_MAX = 1 << 16  # of a program; the kernel's 4096 are none of libpcap's, and 1000 hosts need 5759
AD_OFF = 0xFFFFF000  # SKF_AD_OFF: loads from here on ask a Linux kernel for what is in no packet
REJECT = b"\x06\0\0\0\0\0\0\0"  # BPF_RET, 0: no packet
REJECTS_ALL = "expression rejects all packets"  # libpcap's error for a program that is no more than that
NETMASK = 0  # as tcpdump has it for files: "ip broadcast" is 255.255.255.255 or 0.0.0.0

# LINKTYPE_ numbers that are other DLT_ numbers on this system or that one; all the rest are the same.
DLT_NAMES = {
    12: b"RAW",
    14: b"RAW",
    100: b"ATM_RFC1483",
    101: b"RAW",
    102: b"SLIP_BSDOS",
    103: b"PPP_BSDOS",
    104: b"C_HDLC",
    106: b"ATM_CLIP",
    108: b"LOOP",
}
# An expression may make sense for some link types only: it is wrong when it does for none of these.
USUAL_LINKS = (1, 113, 276, 101, 0)


class _Program(ctypes.Structure):
    """struct bpf_program"""

    _fields_ = (("bf_len", ctypes.c_uint), ("bf_insns", ctypes.c_void_p))


def _names() -> Iterator[str | None]:
    """What the library may be called; the last asks the linker, which takes a while."""
    yield "libpcap.so.1"
    yield "libpcap.so.0.8"
    yield ctypes.util.find_library("pcap")


def _load() -> Any:
    for name in _names():
        try:
            if name is not None:
                return ctypes.CDLL(name)
        except OSError:
            continue
    raise MissingLibraryError(MISSING, name="libpcap")


@cache
def _libpcap() -> Any:
    """The library with its functions declared."""
    library = _load()
    program = ctypes.POINTER(_Program)
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    try:
        for function, result, arguments in (
            (library.pcap_open_dead, pointer, (number, number)),
            (library.pcap_compile, number, (pointer, program, text, number, ctypes.c_uint32)),
            (library.pcap_geterr, text, (pointer,)),
            (library.pcap_freecode, None, (program,)),
            (library.pcap_close, None, (pointer,)),
            (library.pcap_datalink_name_to_val, number, (text,)),
            (library.bpf_validate, number, (pointer, number)),
            (library.bpf_filter, ctypes.c_uint, (pointer, pointer, ctypes.c_uint, ctypes.c_uint)),
        ):
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise MissingLibraryError(f"{MISSING} (the one found is another: {error})", name="libpcap") from error
    return library


@dataclass(frozen=True, slots=True)
class CompiledFilter:
    """An expression compiled for one link type: its classic BPF instructions, and where libpcap's interpreter is."""

    expression: str
    link: int
    insns: bytes
    address: int

    def __len__(self) -> int:
        return len(self.insns) // INSN_LEN


def _dlt(library: Any, link: int) -> int:
    name = DLT_NAMES.get(link)
    return link if name is None else library.pcap_datalink_name_to_val(name)


def compile_filter(expression: str, link: int = 1, snaplen: int = 262144) -> CompiledFilter:
    """Compile a tcpdump expression for frames of LINKTYPE_ ``link``; an empty one takes every packet.

    FilterError in libpcap's own words. Names of hosts are resolved, as tcpdump does. Nothing has to be freed: the
    instructions are a copy.
    """
    library = _libpcap()
    shown = f"filter {expression!r}"
    if "\0" in expression:
        raise FilterError(f"{shown}: a NUL ends it early")
    handle = library.pcap_open_dead(_dlt(library, link), snaplen)
    if not handle:
        raise MemoryError("pcap_open_dead")
    program = _Program()
    try:
        if library.pcap_compile(handle, program, expression.encode(errors="surrogateescape"), 1, NETMASK):
            reason = " ".join(library.pcap_geterr(handle).decode(errors="replace").split())
            raise FilterError(f"{shown}: {reason}{'' if link == 1 else f' (link type {link_name(link)})'}")
        try:
            insns = ctypes.string_at(program.bf_insns, program.bf_len * INSN_LEN)
            valid = library.bpf_validate(program.bf_insns, program.bf_len)
        finally:
            library.pcap_freecode(program)
    finally:
        library.pcap_close(handle)
    if any(code & 0xE7 == 0x20 and k >= AD_OFF for code, _, _, k in struct.iter_unpack("=HBBI", insns)):
        # libpcap thinks of a live capture; reading a file, tcpdump refuses it as well.
        raise FilterError(f"{shown}: asks for what no packet of a file says (link type {link_name(link)})")
    if not valid:
        raise FilterError(f"{shown}: libpcap does not trust its own program")
    if not 0 < len(insns) <= INSNS_MAX * INSN_LEN:
        raise FilterError(f"{shown}: {len(insns) // INSN_LEN} instructions, at most {INSNS_MAX}")
    address = ctypes.cast(library.bpf_filter, ctypes.c_void_p).value
    assert address
    return CompiledFilter(expression, link, insns, address)


class PacketFilter:
    """The node of an expression: rows of a batch that do not match get ``verdict``.

    A wrong expression is a FilterError at once; one that only a link type that is met has no meaning for, then. One
    thread at a time: make one for each.
    """

    def __init__(self, expression: str, verdict: Verdict | int) -> None:
        self.expression = expression
        first = self._compile_first()
        self._node = Filter({first.link: first.insns}, first.address, verdict)

    def _compile_first(self) -> CompiledFilter:
        failure: FilterError | None = None
        for link in USUAL_LINKS:
            try:
                return compile_filter(self.expression, link)
            except FilterError as error:
                failure = failure or error
        assert failure is not None
        raise failure

    def add_link(self, link: int) -> None:
        """Compile for one more link type; ``process`` does it for those that it meets."""
        try:
            insns = compile_filter(self.expression, link).insns
        except FilterError as error:
            # Right for another link type, so "never" is an answer here and no mistake.
            if REJECTS_ALL not in str(error):
                raise
            insns = REJECT
        self._node.add_program(link, insns)

    def process(self, batch: PacketBatch) -> PacketBatch:
        """Decide every row with verdict PASS. FilterError names a link type the expression has no meaning for."""
        while unknown := self._node.process(batch):
            for link in unknown:
                self.add_link(link)
        return batch

    def counters(self) -> dict[Verdict, int]:
        """Rows by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        return self._node.counters()

    def __repr__(self) -> str:
        return f"PacketFilter({self.expression!r})"
