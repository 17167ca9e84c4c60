"""Addresses and number lists as people write them: VNIs, ports, MACs, IPs."""

from __future__ import annotations

import re

from vxlanfast.errors import SpecError

VNI_MAX = 0xFFFFFF
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-])(?:[0-9a-fA-F]{2}\1){4}[0-9a-fA-F]{2}")


def _number(text: str, what: str, limit: int) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        raise SpecError(f"{what} {text!r}: not a number") from None
    if not 0 <= number <= limit:
        raise SpecError(f"{what} {number}: 0 to {limit}")
    return number


def parse_vni(text: str | int) -> int:
    """A VNI: 0 to 16777215 (24 bits, RFC 7348 §5)."""
    return _number(str(text), "VNI", VNI_MAX)


def parse_vnis(text: str) -> tuple[tuple[int, int], ...]:
    """A list such as ``1,5-9`` as sorted, disjoint ``(first, last)`` ranges."""
    ranges = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low = parse_vni(first)
        high = parse_vni(last) if dash else low
        if high < low:
            raise SpecError(f"VNI range {part.strip()!r}: the lower number comes first")
        ranges.append((low, high))
    return merge_ranges(ranges)


def merge_ranges(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorted and joined where they touch or overlap."""
    out: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return tuple(out)


def parse_mac(text: str) -> bytes:
    """Six bytes of ``02:42:c0:00:02:01`` (or with dashes)."""
    if not _MAC.fullmatch(text):
        raise SpecError(f"MAC address {text!r}: six pairs of hex digits, such as 02:42:c0:00:02:01")
    return bytes.fromhex(text.replace(":", "").replace("-", ""))


def parse_ip(text: str) -> bytes:
    """4 or 16 bytes of an IPv4 or IPv6 address."""
    from ipaddress import ip_address

    try:
        return ip_address(text).packed
    except ValueError:
        raise SpecError(f"address {text!r}: neither IPv4 nor IPv6") from None


def format_ip(packed: bytes) -> str:
    """The address of 4 or 16 bytes as text."""
    from ipaddress import ip_address

    return str(ip_address(packed))


def mac_of_ip(packed: bytes) -> bytes:
    """A locally administered MAC made of an address's last four bytes, 02:42:… as container networks do."""
    return b"\x02\x42" + packed[-4:]
