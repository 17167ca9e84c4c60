"""[live] offload: whether the kernel puts datagrams together for a node's sockets, and cuts its own."""

from __future__ import annotations

import socket

import pytest

import vxlanfast as vf
from vxlanfast.underlay import UDP_GRO, SocketUnderlay


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def local(offload: bool) -> SocketUnderlay:
    """At a free port, unless somebody else takes it first: then at another one."""
    for _ in range(20):
        spec = vf.parse_spec(
            f'[node]\nvtep = "127.0.0.1"\nport = {free_port()}\n[live]\noffload = {str(offload).lower()}\n'
        )
        try:
            return SocketUnderlay(spec, spec.live)
        except vf.DeviceError:
            continue
    raise AssertionError("no free port")


@pytest.mark.parametrize("offload", [True, False])
def test_sockets(offload: bool) -> None:
    underlay = local(offload)
    try:
        assert underlay.receivers[0].getsockopt(socket.IPPROTO_UDP, UDP_GRO) == offload
    finally:
        underlay.close()


def test_a_tap_is_there_for_it() -> None:
    with pytest.raises(vf.SpecError, match=r'offload = False.*take "socket"'):
        vf.parse_spec('[node]\nvtep = "192.0.2.1"\n[live]\nunderlay = "tap"\noffload = false\n')
