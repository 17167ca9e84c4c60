"""What people configure: each value that makes no sense is refused with the thing, the value and the limit."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxlanfast import SpecError, TunnelSpec
from vxlanfast.addr import (
    format_ip,
    mac_of_ip,
    merge_ranges,
    parse_ip,
    parse_mac,
    parse_vni,
    parse_vnis,
)
from vxlanfast.spec import check_port, compile_tunnel

V4 = {"vni": 42, "src": "192.0.2.1", "dst": "192.0.2.2"}
V6 = {"vni": 42, "src": "2001:db8::1", "dst": "2001:db8::2"}

BAD: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"vni": -1}, ("VNI", "-1", "16777215")),
    ({"vni": 1 << 24}, ("VNI", "16777216", "16777215")),
    ({"src": "192.0.2"}, ("address", "'192.0.2'", "neither IPv4 nor IPv6")),
    ({"dst": "example.org"}, ("address", "'example.org'", "neither IPv4 nor IPv6")),
    ({"dst": ""}, ("address", "''")),
    ({"dst": "2001:db8::2"}, ("192.0.2.1", "2001:db8::2", "one is IPv4, the other IPv6")),
    ({"src": "2001:db8::1"}, ("2001:db8::1", "192.0.2.2", "one is IPv4, the other IPv6")),
    ({"smac": "02:42:c0:00:02"}, ("MAC address", "'02:42:c0:00:02'", "six pairs")),
    ({"dmac": "02:42:c0:00:02:0g"}, ("MAC address", "'02:42:c0:00:02:0g'", "six pairs")),
    ({"dmac": "02:42:c0-00-02-01"}, ("MAC address", "six pairs")),
    ({"port": 0}, ("UDP port", "0", "1 to 65535")),
    ({"port": 65536}, ("UDP port", "65536", "1 to 65535")),
    ({"sport": 0}, ("source port", "0", "1 to 65535")),
    ({"sport": 65536}, ("source port", "65536", "1 to 65535")),
    ({"ttl": 0}, ("TTL", "0", "1 to 255")),
    ({"ttl": 256}, ("TTL", "256", "1 to 255")),
    ({"dscp": -1}, ("DSCP", "-1", "0 to 63")),
    ({"dscp": 64}, ("DSCP", "64", "0 to 63")),
    ({"dscp": "copy"}, ("DSCP", "'copy'", "inherit")),
    ({"udp_csum": "yes"}, ("UDP checksum", "'yes'", "auto, on or off")),
    ({"mtu_policy": "cut"}, ("MTU policy", "'cut'", "warn, drop or fragment")),
    ({"mtu": 575}, ("MTU", "575", "576 to 65535", "36 bytes")),
    ({"mtu": 65536}, ("MTU", "65536", "576 to 65535")),
    ({"mtu": 1400, "mtu_policy": "fragment", "df": True}, ("DF", "fragment")),
    ({"seed": -1}, ("seed", "-1", "2^64-1")),
    ({"seed": 1 << 64}, ("seed", str(1 << 64), "2^64-1")),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=lambda value: str(value)[:40])
def test_bad_value(change: dict[str, Any], said: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        TunnelSpec(**{**V4, **change})
    text = str(caught.value)
    assert "\n" not in text
    for part in said:
        assert part in text
    assert isinstance(caught.value, ValueError) and caught.value.exit_code == 2


def test_mtu_over_ipv6() -> None:
    with pytest.raises(SpecError, match=r"MTU 1279: 1280 to 65535 over IPv6 \(56 bytes"):
        TunnelSpec(**V6, mtu=1279)
    assert TunnelSpec(**V6, mtu=1280).mtu == 1280


def test_limits_are_inside() -> None:
    low = TunnelSpec(**{**V4, "vni": 0}, port=1, sport=1, ttl=1, dscp=0, mtu=576, seed=0)
    high = TunnelSpec(
        **{**V4, "vni": (1 << 24) - 1}, port=65535, sport=65535, ttl=255, dscp=63, mtu=65535, seed=(1 << 64) - 1
    )
    for spec in (low, high):
        assert compile_tunnel(spec).counters() == {}


def test_is_frozen_data() -> None:
    spec = TunnelSpec(**V4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.vni = 43  # type: ignore[misc]
    assert spec == TunnelSpec(**V4) and hash(spec) == hash(TunnelSpec(**V4))
    assert dataclasses.replace(spec, vni=43).vni == 43
    with pytest.raises(SpecError):
        dataclasses.replace(spec, vni=-1)
    with pytest.raises(TypeError):
        TunnelSpec(42, "192.0.2.1", "192.0.2.2")  # type: ignore[misc]


@pytest.mark.parametrize(("udp_csum", "v4", "v6"), [("auto", False, True), ("on", True, True), ("off", False, False)])
def test_what_follows(udp_csum: str, v4: bool, v6: bool) -> None:
    assert TunnelSpec(**V4, udp_csum=udp_csum).writes_csum is v4
    assert TunnelSpec(**V6, udp_csum=udp_csum).writes_csum is v6
    assert TunnelSpec(**V4).overhead == 50
    assert TunnelSpec(**V6).overhead == 70


# --- numbers and addresses as people write them ---------------------------------------------------------


@pytest.mark.parametrize(("text", "vni"), [("0", 0), ("42", 42), ("0x2a", 42), ("16777215", 0xFFFFFF), (7, 7)])
def test_parse_vni(text: str | int, vni: int) -> None:
    assert parse_vni(text) == vni


@pytest.mark.parametrize(("text", "said"), [
    ("", "VNI '': not a number"),
    ("a", "VNI 'a': not a number"),
    ("4.2", "VNI '4.2': not a number"),
    ("16777216", "VNI 16777216: 0 to 16777215"),
    ("-1", "VNI -1: 0 to 16777215"),
])  # fmt: skip
def test_parse_vni_refuses(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_vni(text)
    assert str(caught.value) == said


@pytest.mark.parametrize(("text", "ranges"), [
    ("1", ((1, 1),)),
    ("1,5-9", ((1, 1), (5, 9))),
    ("5-9, 1", ((1, 1), (5, 9))),
    ("1-4,5,6-9", ((1, 9),)),
    ("1-9,3-4", ((1, 9),)),
    ("0-16777215", ((0, 0xFFFFFF),)),
])  # fmt: skip
def test_parse_vnis(text: str, ranges: tuple[tuple[int, int], ...]) -> None:
    assert parse_vnis(text) == ranges


@pytest.mark.parametrize(("text", "said"), [
    ("9-5", "VNI range '9-5': the lower number comes first"),
    ("1,,2", "VNI '': not a number"),
    ("5-", "VNI '': not a number"),
    ("1-16777216", "VNI 16777216: 0 to 16777215"),
])  # fmt: skip
def test_parse_vnis_refuses(text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_vnis(text)
    assert str(caught.value) == said


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair)))))
def test_merge_ranges(ranges: list[tuple[int, int]]) -> None:
    merged = merge_ranges(ranges)
    assert {n for first, last in merged for n in range(first, last + 1)} == {
        n for first, last in ranges for n in range(first, last + 1)
    }
    assert all(one[1] + 1 < other[0] for one, other in pairwise(merged))


@given(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16))
def test_addresses_there_and_back(packed: bytes) -> None:
    assert parse_ip(format_ip(packed)) == packed
    assert mac_of_ip(packed) == b"\x02\x42" + packed[-4:]


@pytest.mark.parametrize("text", ["192.0.2.256", "192.0.2.1/24", "192.0.2.01", "2001:db8::g", " 192.0.2.1", "1"])
def test_parse_ip_refuses(text: str) -> None:
    with pytest.raises(SpecError, match="neither IPv4 nor IPv6") as caught:
        parse_ip(text)
    assert repr(text) in str(caught.value)


def test_parse_mac() -> None:
    assert parse_mac("02:42:c0:00:02:01") == parse_mac("02-42-C0-00-02-01") == bytes.fromhex("0242c0000201")
    for text in ("", "02:42:c0:00:02:01:03", "0242c0000201", "02:42:c0:00:02:1", "02:42:c0:00:02:01 ", "02::42"):
        with pytest.raises(SpecError, match="six pairs of hex digits"):
            parse_mac(text)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_check_port(port: int) -> None:
    with pytest.raises(SpecError, match=f"^VTEP port {port}: 1 to 65535$"):
        check_port(port, "VTEP port")
    assert check_port(1) == 1 and check_port(65535) == 65535
