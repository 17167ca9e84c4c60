"""Runs inside the kernel that is asked: a director between two tunnels, and it does what it is told, step by step.

    clients ── tun "clients" ── director: IPVS, one service for what is marked ── tun "servers" ── servers

Both ends are held here. A packet that is written at one end has reached the other when ``write`` returns, so nothing
needs to be waited for. ``tests/test_oracle_ipvs.py`` writes the steps and reads the answers.

usage: ipvs_guest.py SCENES ANSWERS MODULES      JSON in, JSON out, and the folder of the kernel's modules
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh")
MARK = 1
TIME_S = 9  # for a scene: IPVS forgets a closed connection after ten
TICK_S = 0.025  # two of the kernel's ticks and more, after which what ends now has ended
TCP, UDP, SYN = 6, 17, 0x02

# linux/ip_vs.h
SET_ADD, SET_FLUSH, SET_ADD_SERVER, SET_DELETE_SERVER, SET_EDIT_SERVER = 1154, 1157, 1159, 1160, 1161
FLAGS = {"fallback": 0x08, "with_port": 0x10}  # IP_VS_SVC_F_SCHED1, IP_VS_SVC_F_SCHED2

Step = list[Any]


def load(folder: Path, *names: str) -> None:
    """Modules and what they depend on; one that is loaded already does no harm. (``modprobe`` may not be there.)"""
    depends = dict(line.split(":") for line in (folder / "modules.dep").read_text().splitlines())
    paths = {Path(path).stem: path for path in depends}
    libc = ctypes.CDLL(None, use_errno=True)
    for name in names:
        for path in (*reversed(depends[paths[name]].split()), paths[name]):
            fd = os.open(folder / path, os.O_RDONLY)
            libc.syscall(313, fd, b"", 0)  # finit_module
            os.close(fd)


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stdout, stderr=sys.stdout)


def tunnel(name: str, route: str) -> int:
    """A device whose other end is the file: IP packets, without a header of the device's own."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
    run("ip", "link", "set", name, "up")
    run("ip", "route", "add", route, "dev", name)
    return fd


def receive(fd: int) -> bytes | None:
    try:
        return os.read(fd, 2048)
    except BlockingIOError:
        return None


def packet(proto: int, src: int, sport: int, dst: int, dport: int, flags: int) -> bytes:
    """IPv4 with TCP or UDP and no data. A director does not look at TCP's checksum."""
    if proto == TCP:
        body = struct.pack("!HHIIBBHHH", sport, dport, 1, 1, 0x50, flags, 8192, 0, 0)
    else:
        body = struct.pack("!HHHH", sport, dport, 8, 0)
    head = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(body), 0, 0, 64, proto, 0, src, dst)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", 0xFFFF - (total & 0xFFFF) - (total >> 16)) + head[12:] + body


class Director:
    """The machine, made once; each scene has a service and servers of its own."""

    def __init__(self, modules: Path) -> None:
        load(modules, "tun", "iptable_mangle", "xt_mark", *(f"ip_vs_{name}" for name in SCHEDULERS))
        self.clients = tunnel("clients", "172.16.0.0/12")
        self.servers = tunnel("servers", "10.0.0.0/8")
        run("ip", "route", "add", "local", "198.18.0.0/15", "dev", "lo")
        run(*f"iptables-legacy -t mangle -A PREROUTING -i clients -j MARK --set-mark {MARK}".split())
        for setting in ("ip_forward=1", "conf/all/rp_filter=0", "conf/clients/rp_filter=0", "vs/conn_reuse_mode=1"):
            name, value = setting.split("=")
            Path("/proc/sys/net/ipv4", name).write_text(value)
        self.control = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.scene = 0  # in addresses and ports, since the kernel remembers connections, and servers that have any

    def set(self, command: int, more: bytes = b"") -> None:
        """A change of IPVS: struct ip_vs_service_user, and struct ip_vs_dest_user where it is about a server."""
        service = struct.pack(
            "=H2x4s2s2xI16sII4s", TCP, b"", b"", MARK, self.scheduler.encode(), self.flags, 0, b"\xff\xff\xff\xff"
        )
        self.control.setsockopt(socket.IPPROTO_IP, command, service + more)

    def address(self, server: int) -> int:
        return 10 << 24 | self.scene << 16 | server + 1

    @property
    def port(self) -> int:
        """The service's; any would do."""
        return 1024 + self.scene

    def change(self, command: int, server: int, weight: int = 0, upper: int = 0, lower: int = 0) -> None:
        address = self.address(server).to_bytes(4, "big")
        self.set(command, struct.pack("=4s2s2xIiII", address, b"", 0, weight, upper, lower))

    def look(self) -> list[list[int]]:
        """Server, weight, active and inactive connections, in the kernel's order."""
        text = Path("/proc/net/ip_vs").read_text()
        rows = re.findall(r"-> ([0-9A-F]{8}):0000 +Masq +(\d+) +(\d+) +(\d+)", text)
        return [[(int(at, 16) & 0xFFFF) - 1, int(weight), int(active), int(idle)] for at, weight, active, idle in rows]

    def tick(self) -> None:
        """Until a connection has ended, at the kernel's next tick; one of a server that was deleted is not seen to."""
        began, seen = time.monotonic(), self.look()
        while self.look() == seen and time.monotonic() - began < TICK_S:
            time.sleep(0)

    def from_client(self, proto: int, client: int, sport: int, to: int, flags: int) -> int | None:
        """The server that a packet of a client has come to."""
        os.write(self.clients, packet(proto, client, sport, to, self.port, flags))
        while (got := receive(self.servers)) is not None:
            if got[16:18] == bytes([10, self.scene]):  # and no question for IPv6 routers
                return int.from_bytes(got[18:20], "big") - 1
        return None

    def play(self, scheduler: str, options: dict[str, bool], steps: list[Step]) -> tuple[list[Any], float]:
        """The answers to those steps that have one, and how long it took."""
        self.scheduler, self.flags = scheduler, sum(FLAGS[name] for name, on in options.items() if on)
        self.scene += 1
        self.control.setsockopt(socket.IPPROTO_IP, SET_FLUSH, b"")
        self.set(SET_ADD)
        began = time.monotonic()
        answers: list[Any] = []
        connections: dict[int, tuple[int, int, int, int]] = {}
        servers: dict[int, int | None] = {}
        for verb, *what in steps:
            if verb == "open":
                number, proto, client, sport, to = what
                connections[number] = proto, client, sport, to
                servers[number] = self.from_client(proto, client, sport, to, SYN)
                answers.append(servers[number])
            elif verb == "again":  # the same client and port, while the kernel still has the closed connection
                [number] = what
                servers[number] = self.from_client(*connections[number], SYN)
                answers.append(servers[number])
                self.tick()
            elif verb == "in":
                number, flags = what
                self.from_client(*connections[number], flags)
            elif verb == "out":
                number, flags = what
                proto, client, sport, _ = connections[number]
                server = servers[number]
                if server is not None:
                    os.write(self.servers, packet(proto, self.address(server), self.port, client, sport, flags))
                    receive(self.clients)
            elif verb == "add":
                self.change(SET_ADD_SERVER, *what)
            elif verb == "edit":
                self.change(SET_EDIT_SERVER, *what)
            elif verb == "delete":
                self.change(SET_DELETE_SERVER, *what)
            elif verb == "look":
                answers.append(self.look())
            else:
                raise ValueError(f"step {verb}")
        return answers, time.monotonic() - began


def main() -> None:
    scenes, answers, modules = map(Path, sys.argv[1:])
    director = Director(modules)
    done = []
    for scene in json.loads(scenes.read_text()):
        for _ in range(3):  # a machine that has other things to do may be too slow, once
            got, seconds = director.play(**scene)
            if seconds < TIME_S:
                break
        done.append({"answers": got, "seconds": round(seconds, 3)})
    answers.write_text(json.dumps(done))


if __name__ == "__main__":
    main()
