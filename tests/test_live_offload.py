"""[live] offload: whether the kernel puts datagrams together for a node's sockets, and cuts its own."""

from __future__ import annotations

import socket

import pytest

import vxlanfast as vf
from tests.support import free_port
from vxlanfast.underlay import UDP_GRO, SocketUnderlay


@pytest.mark.parametrize("offload", [True, False])
def test_sockets(offload: bool) -> None:
    spec = vf.parse_spec(
        f'[node]\nvtep = "127.0.0.1"\nport = {free_port()}\n[live]\noffload = {str(offload).lower()}\n'
    )
    underlay = SocketUnderlay(spec, spec.live)
    try:
        assert underlay.receivers[0].getsockopt(socket.IPPROTO_UDP, UDP_GRO) == offload
    finally:
        underlay.close()


def test_a_tap_is_there_for_it() -> None:
    with pytest.raises(vf.SpecError, match=r'offload = False.*take "socket"'):
        vf.parse_spec('[node]\nvtep = "192.0.2.1"\n[live]\nunderlay = "tap"\noffload = false\n')
