"""Checks of what people wrote, each of which says key, value and rule in one line."""

from __future__ import annotations

import os
from contextlib import suppress

from vxlanfast.addr import parse_ip, parse_mac
from vxlanfast.errors import SpecError

#: Bytes of a device's name: IFNAMSIZ without its end.
DEVICE_NAME_MAX = 15


def rule_error(key: str, value: object, rule: str) -> SpecError:
    """``key = value: rule``."""
    return SpecError(f"{key} = {value!r}: {rule}")


def among(key: str, value: int, least: int, most: int) -> None:
    """SpecError: not ``least`` to ``most``."""
    if not least <= value <= most:
        raise rule_error(key, value, f"{least} to {most}")


def address(key: str, text: str) -> bytes:
    """An IP address, packed. SpecError: it is none."""
    try:
        return parse_ip(text)
    except SpecError:
        raise rule_error(key, text, "an IPv4 or IPv6 address") from None


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    with suppress(SpecError):
        return bool(parse_ip(text))
    return False


def dns_name(key: str, text: str) -> str:
    """A name that DNS can have (RFC 1035 §2.3.4). SpecError: it is none."""
    labels = text.encode("ascii", "replace").split(b".")
    if not text.isascii() or len(text) > 253 or not all(1 <= len(label) <= 63 for label in labels):
        raise rule_error(key, text, "labels of 1 to 63 ASCII characters with dots between, 253 in all")
    return text


def device_name(key: str, text: str) -> str:
    """What the kernel takes as the name of a network device (dev_valid_name). SpecError: it would not."""
    fine = 0 < len(os.fsencode(text)) <= DEVICE_NAME_MAX and text.isprintable() and not set(text) & set("/: ")
    if not fine or text in (".", ".."):
        raise rule_error(key, text, f"1 to {DEVICE_NAME_MAX} bytes, no space, slash or colon")
    return text


def station(text: str, key: str = "mac") -> bytes:
    """The MAC of one station. SpecError: it is none, or zero, or a group's."""
    try:
        mac = parse_mac(text)
    except SpecError:
        raise rule_error(key, text, "six pairs of hex digits, such as 02:42:c0:00:02:01") from None
    if mac[0] & 1 or not any(mac):
        raise rule_error(key, text, "the address of one station, neither zero nor a group's")
    return mac
