"""Live nodes for a while: mixed traffic while everything around it changes, and every byte looked at."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import inside, ip, namespaces, need_root
from tests.live import PATIENCE_S, Node, address, background, hub, kernel_peer, run, until
from tests.live_mesh import ECHO, HTTP, NODES, VIRTUAL, Mesh, Wish, entry, mesh, shown, task
from tests.support import SLOW_BUILD
from vxlanfast.control_client import ControlClient

pytestmark = [pytest.mark.root, pytest.mark.long]

SOAK_S = float(os.environ.get("VXLANFAST_SOAK_S", "120"))
#: Between changes.
CHANGE_S = 3.0
#: Echoes that may be on their way at once: five are sent a second.
UNDER_WAY_MAX = 5
#: A network more, in front of the others and with a device, so that every port gets another number; a service more.
ZERO = """
[[network]]
name = "zero"
vni = 77
[[network.endpoint]]
port = "zero{n}"
mac = "02:00:00:00:77:0{n}"
"""


class Work:
    """Something that goes on in a thread of its own, in a namespace, until it is told to end; it must not fail."""

    def __init__(self, name: str, namespace: str, step: Callable[[Counter[str]], Any], pause_s: float = 0.0) -> None:
        self.name, self.namespace, self.step, self.pause_s = name, namespace, step, pause_s
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)

    def _main(self) -> None:
        with inside(self.namespace):
            while not self.ending.wait(self.pause_s) and len(self.wrong) < 5:
                try:
                    self.step(self.done)
                    self.done["steps"] += 1
                except Exception as error:
                    self.wrong.append(f"{self.name}: {type(error).__name__}: {error}")

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.ending.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive(), f"{self.name} hangs"


def line(sock: socket.socket) -> bytes:
    out = b""
    while not out.endswith(b"\n"):
        piece = sock.recv(4096)
        assert piece, f"closed behind {out!r}"
        out += piece
    return out


def exactly(sock: socket.socket, size: int) -> bytes:
    out = bytearray()
    while len(out) < size:
        piece = sock.recv(size - len(out))
        assert piece, f"closed behind {len(out)} of {size} bytes"
        out += piece
    return bytes(out)


class Echoes:
    """A connection that stays open for all the time: what is said comes back, byte for byte."""

    def __init__(self, world: Mesh, number: int, seed: int) -> None:
        with inside(world.client):
            self.sock = socket.create_connection((entry(number), ECHO), timeout=PATIENCE_S)
        self.task = line(self.sock).split()[0].decode()
        self.rng = random.Random(seed)

    def step(self, done: Counter[str]) -> None:
        said = self.rng.randbytes(self.rng.choice((1, 100, 1460, 5000, 40_000)))
        self.sock.sendall(said)
        assert exactly(self.sock, len(said)) == said, "bytes that were not said"
        done["bytes"] += len(said)


def web(to: tuple[str, int]) -> Callable[[Counter[str]], None]:
    """A request with a connection of its own."""

    def step(done: Counter[str]) -> None:
        with socket.create_connection(to, timeout=PATIENCE_S) as sock:
            sock.sendall(b"GET /name HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := sock.recv(4096):
                answer += piece
        assert answer.startswith(b"HTTP/1.0 200") and re.search(rb"\r\n\r\nt[123]\n$", answer), answer
        done[answer[-3:-1].decode()] += 1

    return step


def datagrams(sock: socket.socket, to: tuple[str, int]) -> Callable[[Counter[str]], None]:
    """One at a time, and its echo: of whatever length fits."""
    rng = random.Random(5)
    sock.settimeout(PATIENCE_S)

    def step(done: Counter[str]) -> None:
        said = rng.randbytes(rng.choice((1, 17, 500, 1400)))
        sock.sendto(said, to)
        got, peer = sock.recvfrom(4096)
        assert got == said and peer == to, f"{len(got)} bytes of {peer}"

    return step


def echo_datagrams(sock: socket.socket, ending: threading.Event) -> None:
    sock.settimeout(0.2)
    while not ending.is_set():
        with contextlib.suppress(TimeoutError):
            piece, peer = sock.recvfrom(4096)
            sock.sendto(piece, peer)


@contextlib.contextmanager
def echoing(namespace: str, place: tuple[str, int]) -> Iterator[None]:
    """Somebody who sends datagrams back."""
    with inside(namespace):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ending = threading.Event()
    with sock:
        sock.bind(place)
        thread = threading.Thread(target=echo_datagrams, args=(sock, ending))
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()


def names(world: Mesh, at: int, *more: str) -> Callable[[Counter[str]], None]:
    def step(done: Counter[str]) -> None:
        assert world.dig(at, "east", *more) == VIRTUAL
        tasks = set(world.dig(at, "tasks.east", *more).split())
        assert tasks <= {task(n, 9) for n in NODES} and len(tasks) >= 2, tasks
        assert world.status(at, "nobody") == "NXDOMAIN"

    return step


class Changes:
    """What happens to the nodes, one thing after the other, over and over."""

    def __init__(self, world: Mesh) -> None:
        self.world = world
        self.turn = 0
        self.todo = (self.wider, self.drained, self.as_before, self.device_goes, self.server_goes, self.refused)

    def next(self) -> str:
        act = self.todo[self.turn % len(self.todo)]
        self.turn += 1
        act()
        return act.__name__

    def wider(self) -> None:
        """Networks and weights more; every port has another number."""
        for number in NODES:
            text = self.world.config(number, Wish(weight=3))
            at = text.index("\n[[network]]")
            self.world.nodes[number].config.write_text(text[:at] + ZERO.format(n=number) + text[at:])
            self.world.ask(number, "reload")

    def drained(self) -> None:
        self.world.set_all(f"weight web {task(2)} 0")
        self.world.set_all(f"weight east {task(2, 9)} 0")

    def as_before(self) -> None:
        for number in NODES:
            self.world.reload(number, self.world.wish)

    def device_goes(self) -> None:
        """It comes again by itself; task 2's, which no datagram is on its way to."""
        namespace = self.world.tasks[1]
        for name in ("ingress2", "blue2"):
            ip("-n", namespace, "link", "del", name)
        for name in ("ingress2", "blue2"):
            until(f"{name} is back", lambda name=name: f" {name}: <" in run(namespace, "ip", "-o", "link").stdout)
        until("its route is back", lambda: "default" in run(namespace, "ip", "route").stdout)

    def server_goes(self) -> None:
        """A drained one is taken out, and comes again."""
        self.world.set_all(f"server del web {task(3)}")
        self.world.set_all(f"server add web {task(3)} -w 2")

    def refused(self) -> None:
        """What cannot be changes nothing."""
        node = self.world.nodes[1]
        good = node.config.read_text()
        node.config.write_text(good + "\n[[network]]\nvni = 4097\n")
        with pytest.raises(Exception, match=r"node|name|VNI|vni"):
            self.world.ask(1, "reload")
        node.config.write_text(good)


def weight(world: Mesh) -> list[tuple[int, int]]:
    """Of each node: KiB in memory, and descriptors."""
    out = []
    for node in world.nodes.values():
        assert node.process is not None
        status = Path(f"/proc/{node.process.pid}/status").read_text()
        out.append((int(re.findall(r"VmRSS:\s+(\d+)", status)[0]), len(os.listdir(f"/proc/{node.process.pid}/fd"))))
    return out


def adds_up(stats: dict[str, Any]) -> None:
    """The laws of an account; see ``PlaneStats``."""
    drops, late = sum(stats["drops"].values()), sum(stats["send_drops"].values())
    assert stats["packets"] + stats["mesh"]["resets"] == stats["passed"] + drops, shown(stats)
    out = stats["passed"] - stats["flooded"] + stats["copies"] - stats["fragmented"] + stats["fragments"] - late
    assert stats["sent"] == out, shown(stats)


def quiet(world: Mesh, number: int) -> tuple[dict[str, dict[str, int]], dict[str, Any]]:
    """Counters of devices and of the plane, of one moment: nothing moved while they were asked for."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        first, stats, again = (world.table(number, name) for name in ("io", "counters", "io"))
        if first == again:
            return first, stats
    raise AssertionError(f"node {number} is never quiet")


def account(world: Mesh, works: Callable[[], None]) -> None:
    """Over some traffic, what devices counted and what planes counted is the same, port by port."""
    before = {number: quiet(world, number) for number in NODES}
    works()
    for number in NODES:
        (io0, plane0), (io1, plane1) = before[number], quiet(world, number)
        adds_up(plane1)

        def moved(port: str, key: str, was: Any = io0, now: Any = io1) -> int:
            return int(now[port][key] - was[port][key])

        def counted(port: str, key: str, was: Any = plane0["ports"], now: Any = plane1["ports"]) -> int:
            return moved(port, key, was, now)

        for port in io1:
            where = f"node {number}, {port}: {shown([io0[port], io1[port], plane0, plane1])}"
            if port == "underlay":
                # Of peers' traffic the plane counts frames, without outer headers.
                came = sum(p["rx_packets"] for p in plane1["peers"]) - sum(p["rx_packets"] for p in plane0["peers"])
                went = sum(p["tx_packets"] for p in plane1["peers"]) - sum(p["tx_packets"] for p in plane0["peers"])
                assert moved(port, "rx_packets") == came > 0, where
                assert moved(port, "tx_packets") + moved(port, "tx_drops") == went > 0, where
                continue
            for key in ("rx_packets", "rx_bytes"):
                assert moved(port, key) == counted(port, key), where
            # What belongs together leaves by a device in one piece.
            left = moved(port, "tx_packets") + moved(port, "tx_drops")
            assert left <= counted(port, "tx_packets"), where
            assert left or not counted(port, "tx_packets"), where


def test_mixed_traffic_while_everything_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Connections stay open and whole, requests and questions are answered, datagrams and pings are not lost; memory
    and descriptors stay what they are."""
    need_root("ping", "dig")
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(mesh(tmp_path))
        stack.enter_context(echoing(world.tasks[2], (task(3, 9), 99)))
        with inside(world.tasks[0]):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        works = [Work("datagrams", world.tasks[0], datagrams(sock, (task(3, 9), 99)), 0.005)]
        for number in NODES:
            for turn in range(3):
                talk = Echoes(world, number, 10 * number + turn)
                stack.callback(talk.sock.close)
                works.append(Work(f"talk by {number} with {talk.task}", world.client, talk.step, 0.05))
            works.append(Work(f"requests by {number}", world.client, web((entry(number), HTTP)), 0.05))
        for number in (1, 3):
            works.append(Work(f"requests of task {number}", world.tasks[number - 1], web((VIRTUAL, 80)), 0.05))
            works.append(Work(f"names for {number}", world.tasks[number - 1], names(world, number), 0.5))
        works.append(Work("names over TCP", world.tasks[0], names(world, 1, "+tcp"), 0.5))
        log = stack.enter_context((tmp_path / "ping.log").open("w"))
        pings = stack.enter_context(
            background(world.tasks[0], "ping", "-i", "0.2", "-W", "20", task(3, 9), stdout=log)
        )
        for work in works:
            work.start()
        changes, seen = Changes(world), []
        began = time.monotonic()
        try:
            while time.monotonic() - began < SOAK_S and not any(work.wrong for work in works):
                time.sleep(CHANGE_S)
                what = changes.next()
                if what == "refused":  # the end of a round: everything is as it was at the end of the last one
                    seen.append(weight(world))
                for number in NODES:
                    world.nodes[number].alive()
                    adds_up(world.table(number, "counters"))
        finally:
            for work in works:
                work.stop()
            pings.send_signal(2)
            pings.wait(PATIENCE_S)
        wrong = [text for work in works for text in work.wrong]
        logs = "\n".join(node.log[-3000:] for node in world.nodes.values())
        assert not wrong, "\n".join([*wrong, logs])
        pinged = (tmp_path / "ping.log").read_text()
        none_lost(pinged)
        assert all(work.done["steps"] for work in works)
        with capsys.disabled():
            print(f"\n  {changes.turn} changes; {pinged.strip().splitlines()[-2]}")
            for work in works:
                print(f"  {work.name}: {dict(work.done)}")
            print(f"  KiB and descriptors, round by round: {seen}")
        as_flat_as_can_be(seen)

        def again() -> None:
            for work in works:
                if not work.name.startswith("talk"):
                    with inside(work.namespace):
                        for _ in range(2 if work.name.startswith("names") else 30):
                            work.step(work.done)

        account(world, again)
        world.down()


def none_lost(pinged: str) -> None:
    """All echoes came back, but for those that were on their way when ping was ended."""
    came = {int(number) for number in re.findall(r"bytes from .* icmp_seq=(\d+) ", pinged)}
    sent = int(re.findall(r"(\d+) packets transmitted", pinged)[0])
    assert came and came == set(range(1, max(came) + 1)) and sent - max(came) <= UNDER_WAY_MAX, pinged


def as_flat_as_can_be(seen: list[list[tuple[int, int]]]) -> None:
    """Behind the first third, memory and descriptors are what they are."""
    if len(seen) < 6 or SLOW_BUILD:
        return
    third = len(seen) // 3
    for node in range(len(NODES)):
        middle = [round_[node] for round_ in seen[third : 2 * third]]
        last = [round_[node] for round_ in seen[2 * third :]]
        assert max(fds for _, fds in last) <= max(fds for _, fds in middle) + 2, seen
        grown = statistics.median(kib for kib, _ in last) / statistics.median(kib for kib, _ in middle)
        assert grown < 1.05, f"node {node + 1} grew: {seen}"


# --- every byte -----------------------------------------------------------------------------------------

VNI, TASK, PEER = 42, "10.0.9.3", "10.0.9.12"
STREAM_S = min(60.0, SOAK_S / 2)


def pair_config(underlay: str, namespace: str) -> str:
    vtep = "198.51.100.1" if underlay == "tap" else "192.0.2.1"
    return f"""
[node]
vtep = "{vtep}"
[live]
underlay = "{underlay}"
[[live.tap]]
port = "task"
name = "eth0"
namespace = "{namespace}"
[[network]]
name = "web"
vni = {VNI}
subnet = "10.0.9.0/24"
[[network.peer]]
vtep = "192.0.2.2"
[[network.endpoint]]
port = "task"
ip = "{TASK}"
"""


@pytest.fixture(params=["socket", "tap"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str, Node]]:
    """A task behind a node, a kernel's vxlan device, and the node."""
    need_root("ping")
    with namespaces("h", "n", "t", "a") as (middle, here, there, peer):
        hub(middle, [here, peer])
        address(here, "wire", "192.0.2.1/24")
        address(peer, "wire", "192.0.2.2/24")
        vtep = "192.0.2.1"
        if request.param == "tap":
            vtep = "198.51.100.1"
            run(here, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            ip("-n", peer, "route", "add", vtep, "via", "192.0.2.1")
        kernel_peer(
            peer, vni=VNI, local="192.0.2.2", addresses=[f"{PEER}/24"], mac="02:42:0a:00:09:0c", flood=[vtep]
        )  # fmt: skip
        with Node(here, tmp_path, pair_config(request.param, there)) as node:
            yield there, peer, node
            assert node.stop() == 0, node.log


def stream(sock: socket.socket, seed: int, seconds: float, out: dict[str, Any]) -> None:
    """Bytes of a seed, as many as go in that time; their digest."""
    rng, digest, count, end = random.Random(seed), hashlib.sha256(), 0, time.monotonic() + seconds
    pool = rng.randbytes(1 << 22)
    while time.monotonic() < end:
        at = rng.randrange(len(pool) - (1 << 18))
        piece = memoryview(pool)[at : at + rng.randrange(1, 1 << 18)]
        sock.sendall(piece)
        digest.update(piece)
        count += len(piece)
    sock.shutdown(socket.SHUT_WR)
    out["sent"] = count, digest.hexdigest()


def take(sock: socket.socket, out: dict[str, Any]) -> None:
    digest, count = hashlib.sha256(), 0
    while piece := sock.recv(1 << 18):
        digest.update(piece)
        count += len(piece)
    out["got"] = count, digest.hexdigest()


def test_every_byte_both_ways(pair: tuple[str, str, Node], capsys: pytest.CaptureFixture[str]) -> None:
    """TCP both ways at once: what comes is what was sent, by its digest."""
    here, there, node = pair
    until("they know each other", lambda: run(here, "ping", "-c", 1, "-W", 1, PEER, check=False).returncode == 0)
    with inside(there):
        listener = socket.create_server((PEER, 5001))
    with listener:
        with inside(here):
            one = socket.create_connection((PEER, 5001), timeout=PATIENCE_S)
        two, _ = listener.accept()
    with one, two:
        ends: list[dict[str, Any]] = [{}, {}]
        threads = []
        for sock, out, seed in ((one, ends[0], 1), (two, ends[1], 2)):
            sock.settimeout(PATIENCE_S)
            threads.append(threading.Thread(target=stream, args=(sock, seed, STREAM_S, out)))
            threads.append(threading.Thread(target=take, args=(sock, out)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with capsys.disabled():
        told = ", ".join(f"{end['sent'][0] * 8 / STREAM_S / 1e9:.2f} Gbit/s" for end in ends)
        print(f"\n  {STREAM_S:.0f} s: {told}")
    assert ends[0]["sent"] == ends[1]["got"] and ends[1]["sent"] == ends[0]["got"]
    assert ends[0]["sent"][0] > 1 << 20
    node.alive()


@pytest.mark.parametrize("options", [(), ("-R",), ("-u", "-b", "200M", "-l", "1400")], ids=["there", "back", "udp"])
def test_iperf3(
    pair: tuple[str, str, Node], options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """As long; what it says of itself."""
    need_root("iperf3")
    here, there, node = pair
    until("they know each other", lambda: run(here, "ping", "-c", 1, "-W", 1, PEER, check=False).returncode == 0)
    with background(there, "iperf3", "-s", "-1"):
        until("it listens", lambda: ":1451 " in run(there, "cat", "/proc/net/tcp", "/proc/net/tcp6").stdout)
        said = run(here, "iperf3", "-c", PEER, "-t", int(STREAM_S), *options, timeout=STREAM_S + PATIENCE_S).stdout
    with capsys.disabled():
        print("\n  " + "\n  ".join(text for text in said.splitlines() if text.endswith(("sender", "receiver"))))
    assert "receiver" in said
    with contextlib.closing(ControlClient(str(node.control))) as asking:
        counts = next(asking.ask("show", table="io", format="json"))["value"]
    # What a busy receiver's own socket has no room for is not the node's loss.
    for port in counts.values():
        assert not port["rx_drops"] and not port["rx_missed"] and not port["tx_too_long"], shown(counts)
    node.alive()
