"""Three live nodes with services and names: published ports, virtual addresses, questions of names; tasks and nodes
that end, softly or not."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab import inside, need_root
from tests.live import run, until
from tests.live_mesh import (
    ECHO,
    HTTP,
    INSIDE,
    NODES,
    OF_TWO,
    RESOLVER6,
    VIRTUAL,
    VIRTUAL6,
    Mesh,
    Wish,
    client,
    entry,
    mesh,
    task,
)  # fmt: skip
from tests.support import PYTHON, VERBS_ENV

pytestmark = [pytest.mark.root, pytest.mark.live, pytest.mark.slow]

#: Of a run of ab.
REQUESTS = 20_000


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Mesh]:
    need_root("curl", "dig")
    with mesh(tmp_path) as made:
        yield made


def url(number: int, port: int, *, six: bool = False) -> str:
    return f"[{entry(number, six=True)}]:{port}" if six else f"{entry(number)}:{port}"


def names(world: Mesh, to: str, times: int, *, at: str = "") -> list[str]:
    """The tasks that so many connections met."""
    return [world.curl(to, at=at) for _ in range(times)]


def test_published_ports_and_virtual_addresses(world: Mesh) -> None:
    """Each node's published port reaches all tasks in turn, the node without a task of the service too; a task reaches
    the virtual address; tasks see the client's own address."""
    for number in NODES:
        met = names(world, url(number, HTTP), 6)
        assert met[:3] == met[3:] and sorted(met[:3]) == ["t1", "t2", "t3"], f"by node {number}: {met}"
        assert sorted(names(world, url(number, OF_TWO), 4)) == ["t1", "t1", "t2", "t2"]
    assert sorted(names(world, url(2, HTTP, six=True), 3)) == ["t1", "t2", "t3"]
    for number in NODES:
        seen = (world.folder / f"t{number}.http.log").read_text()
        for one in NODES:
            assert f"::ffff:{client(one)} - - " in seen, seen
        assert f"{client(2, six=True)} - - " in seen, seen
        assert not re.search(r"10\.0\.0\.\d+ - -", seen)
    for number in NODES:
        for address in (VIRTUAL, f"[{VIRTUAL6}]"):
            met = names(world, f"{address}:80", 3, at=world.tasks[number - 1])
            assert sorted(met) == ["t1", "t2", "t3"], f"from task {number} to {address}: {met}"
    world.down()


def test_names(world: Mesh) -> None:
    """A service's name is its virtual address, ``tasks.`` its tasks; others' networks have no names for a client."""
    tasks = sorted(task(n, 9) for n in NODES)
    for number in NODES:
        for more in ((), ("+tcp",)):
            assert world.dig(number, "east", *more) == VIRTUAL
            assert world.dig(number, "e.blue", *more) == VIRTUAL
            assert world.dig(number, "east", "AAAA", *more) == VIRTUAL6
            assert sorted(world.dig(number, "tasks.east", *more).split()) == tasks
            assert world.dig(number, "-x", task(2, 9), *more) == "east.2.blue."
    assert world.dig(1, "east", resolver=RESOLVER6) == VIRTUAL
    until("another order", lambda: len({world.dig(1, "tasks.east") for _ in range(8)}) > 1)
    # Task 1 is on the internal network as well; the others are not.
    assert world.dig(1, "inside") == INSIDE
    for number in (2, 3):
        for name in ("inside", "tasks.inside", "inside.green"):
            assert world.status(number, name) == "NXDOMAIN"
            assert world.status(number, name, "+tcp") == "NXDOMAIN"
    # A task that is drained has no name any more, at once.
    world.set(3, f"weight east {task(2, 9)} 0")
    assert sorted(world.dig(3, "tasks.east").split()) == [task(1, 9), task(3, 9)]
    assert world.status(3, "-x", task(2, 9)) == "NXDOMAIN"
    world.set(3, f"weight east {task(2, 9)} 1")
    assert sorted(world.dig(3, "tasks.east").split()) == tasks
    # Who is outside is told nothing.
    asked = run(world.client, "dig", "@10.0.9.53", "+tries=1", "+time=1", "east", check=False)
    assert asked.returncode == 9, asked.stdout
    world.down()


class Talk:
    """A connection to an echoing task that stays open: who it is, and whom it sees."""

    def __init__(self, world: Mesh, number: int) -> None:
        with inside(world.client):
            self.sock = socket.create_connection((entry(number), ECHO), timeout=20)
        self.task, self.client = self._line().split()

    def _line(self) -> str:
        out = b""
        while not out.endswith(b"\n"):
            piece = self.sock.recv(4096)
            if not piece:
                raise ConnectionResetError("closed")
            out += piece
        return out.decode()

    def works(self) -> bool:
        try:
            self.sock.sendall(b"still there?\n")
            return self._line() == "still there?\n"
        except (ConnectionError, BrokenPipeError):
            return False

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_a_task_is_killed(world: Mesh) -> None:
    """Its own connections fail and no other; behind its removal nobody is sent there."""
    talks = [Talk(world, number) for number in NODES for _ in range(6)]
    try:
        assert {talk.task for talk in talks} == {"t1", "t2", "t3"}
        assert {talk.client for talk in talks} == {client(n) for n in NODES}
        assert all(talk.works() for talk in talks)
        world.kill("echo", 2)
        for talk in talks:
            assert talk.works() == (talk.task != "t2"), talk.task
        for number in NODES:
            said = world.set(number, f"server del web {task(2)}")
            assert "removed" in said
        for number in NODES:
            for _ in range(4):
                with Talk(world, number) as talk:
                    assert talk.task in ("t1", "t3") and talk.works()
        assert all(talk.works() for talk in talks if talk.task != "t2")
        # It comes back, and is used again.
        world.set_all(f"server add web {task(2)}")
        assert sorted(names(world, url(1, HTTP), 3)) == ["t1", "t2", "t3"]
        # The same by a configuration that does not know it.
        for number in NODES:
            world.reload(number, Wish(tasks=(1, 3)))
        for number in NODES:
            assert set(names(world, url(number, HTTP), 4)) == {"t1", "t3"}
        assert all(talk.works() for talk in talks if talk.task != "t2")
    finally:
        for talk in talks:
            talk.close()
    world.down()


def devices(namespace: str) -> set[str]:
    return set(re.findall(r"^\d+: ([^:@]+)", run(namespace, "ip", "-o", "link").stdout, re.MULTILINE))


def nothing_left(world: Mesh, number: int) -> None:
    """No device of it, no socket."""
    assert not devices(world.tasks[number - 1]) & {f"ingress{number}", f"blue{number}", f"green{number}"}
    assert f"lan{number}" not in devices(world.client)
    assert ":12B5 " not in run(world.hosts[number - 1], "cat", "/proc/net/udp", "/proc/net/udp6").stdout


def test_a_node_is_killed(world: Mesh, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL leaves nothing but the socket's file, which nobody minds; started again, traffic flows again."""
    assert names(world, url(3, HTTP), 3)
    with Talk(world, 1) as first, Talk(world, 1) as second, Talk(world, 1) as third:
        others = [talk for talk in (first, second, third) if talk.task != "t3"]
        assert len(others) == 2
        node = world.nodes[3]
        node.kill()
        until("its devices are gone", lambda: f"ingress{3}" not in devices(world.tasks[2]))
        nothing_left(world, 3)
        assert all(talk.works() for talk in others)
        began = time.monotonic()
        node.start()
        started = time.monotonic() - began
        until("by it to a task", lambda: world.curl(url(3, HTTP), "--connect-timeout", "0.3", check=False))
        until(
            "by another to its task",
            lambda: world.curl(url(1, HTTP), "--connect-timeout", "0.3", check=False) == "t3",
        )
        took = time.monotonic() - began
        with capsys.disabled():
            print(f"\n  up again in {started:.2f} s, both ways in {took:.2f} s")
        assert all(talk.works() for talk in others)
    assert sorted(names(world, url(3, HTTP), 3)) == ["t1", "t2", "t3"]
    assert (node.control.stat().st_mode & 0o777) == 0o600
    assert world.table(3, "status")["name"] == "n3"
    world.down()
    nothing_left(world, 3)
    assert not node.control.exists()


def test_a_node_drains(tmp_path: Path) -> None:
    """SIGTERM: what is open goes on to its end, new connections are refused, and then the node ends."""
    need_root("curl")
    with mesh(tmp_path, Wish(drain_s=60)) as world:
        node = world.nodes[2]
        assert node.process is not None
        talk = Talk(world, 2)
        assert talk.works()
        node.process.terminate()
        until("new ones are refused", lambda: not world.curl(url(2, HTTP), "--connect-timeout", "1", check=False))
        for _ in range(3):
            assert talk.works()
            assert not world.curl(url(2, HTTP), "--connect-timeout", "0.5", check=False)
        assert node.process.poll() is None
        assert sorted(names(world, url(1, HTTP), 3)) == ["t1", "t2", "t3"]  # its task is nobody's to drain
        talk.close()
        assert node.process.wait(60) == 0, node.log
        assert "drained" in node.log and "node down" in node.log, node.log
        assert not node.control.exists()
        nothing_left(world, 2)


def verb(world: Mesh, number: int, *words: object) -> str:
    """What ``vxlanfast`` says with that node's control socket."""
    command = [PYTHON, "-m", "vxlanfast", *map(str, words), "--socket", str(world.nodes[number].control)]
    return subprocess.run(command, capture_output=True, text=True, env=VERBS_ENV, timeout=60, check=True).stdout


def loaded(world: Mesh, at: int, while_it_runs: Callable[[Mesh], None]) -> list[str]:
    """What ab says of ``REQUESTS`` at a time, each a connection of its own, one run behind the other until
    ``while_it_runs`` is through, which is called in their midst."""
    command = ("ab", "-q", "-n", REQUESTS, "-c", 20, "-s", 60, f"http://{url(at, HTTP)}/name")
    through = threading.Event()

    def runs() -> list[str]:
        said = []
        while not through.is_set():
            said.append(run(world.client, *command, timeout=300).stdout)
        return said

    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(runs)
        try:
            while_it_runs(world)
        finally:  # requests that failed are why the rest did
            through.set()
            said = load.result()
    return said


@pytest.mark.parametrize("preserve", [True, False], ids=["source preserved", "masqueraded"])
def test_a_task_drains_under_load(tmp_path: Path, preserve: bool) -> None:
    """Weight 0, wait until it has no connection, end it, take it out: not one request fails."""
    need_root("ab", "nginx", "dig")
    with mesh(tmp_path, Wish(preserve=preserve), servers="nginx") as world:

        def drain(world: Mesh) -> None:
            access = world.folder / "t2.access.log"
            until("the task has its part", lambda: access.read_text().count("\n") > 200)
            said = verb(world, 1, "set", "weight", "web", task(2), 0)
            assert said.startswith(f"service web: server {task(2)}") and said.endswith("now weight 0\n")
            for service, network in (("web", 0), ("two", 0), ("east", 9)):
                world.set_all(f"weight {service} {task(2, network)} 0")
            assert sorted(world.dig(1, "tasks.east").split()) == [task(1, 9), task(3, 9)]
            until("it has no connection any more", lambda: world.open_to(task(2)) == 0)
            before = access.read_text().count("\n")
            world.kill("http", 2)
            world.set_all(f"server del web {task(2)}")
            assert access.read_text().count("\n") == before

        for said in loaded(world, 1, drain):
            assert re.search(rf"Complete requests:\s+{REQUESTS}\n", said), said
            assert re.search(r"Failed requests:\s+0\n", said), said
            assert "Non-2xx" not in said, said
        for number in (1, 3):
            seen = (world.folder / f"t{number}.access.log").read_text()
            sees = f"::ffff:{client(1)} " if preserve else "::ffff:10.0.0.101 "
            assert seen.startswith(sees), seen[:200]
        world.down()
