"""Three live nodes with services and names on one underlay, tasks and a client in namespaces of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import namespaces
from tests.live import Node, address, background, hub, run, until
from tests.support import PYTHON
from vxlanfast.changes import parse
from vxlanfast.control_client import ControlClient, ControlError

NODES = (1, 2, 3)
#: Ports that are published, and those of the tasks: one for HTTP, one that echoes.
HTTP, ECHO, OF_TWO = 8080, 7007, 8081
RESOLVER, RESOLVER6 = "10.0.9.53", "fd00:9::53"
VIRTUAL, VIRTUAL6 = "10.0.9.100", "fd00:9::100"
INSIDE = "10.0.8.100"

#: Says who it is and who calls, and gives back everything that comes; the names of callers go to its log.
ECHO_TASK = """
import socket, sys, threading

def serve(sock, peer):
    with sock:
        try:
            sock.sendall(f"{sys.argv[1]} {peer}\\n".encode())
            while piece := sock.recv(65536):
                sock.sendall(piece)
        except OSError:
            pass

sock = socket.socket(socket.AF_INET6)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
sock.bind(("::", int(sys.argv[2])))
sock.listen(128)
while True:
    one, peer = sock.accept()
    name = peer[0].removeprefix("::ffff:")
    print("from", name, flush=True)
    threading.Thread(target=serve, args=(one, name), daemon=True).start()
"""

NGINX = """
daemon off;
worker_processes 1;
pid {folder}/{name}.pid;
error_log {folder}/{name}.nginx.log;
events {{ worker_connections 512; }}
http {{
  access_log {folder}/{name}.access.log;
  client_body_temp_path {folder}/{name}.body;
  proxy_temp_path {folder}/{name}.proxy;
  fastcgi_temp_path {folder}/{name}.fastcgi;
  uwsgi_temp_path {folder}/{name}.uwsgi;
  scgi_temp_path {folder}/{name}.scgi;
  server {{
    listen [::]:80 ipv6only=off backlog=512 reuseport;
    location / {{ default_type text/plain; return 200 "{name}\\n"; }}
  }}
}}
"""


def entry(number: int, *, six: bool = False) -> str:
    """The node's address for the client."""
    return f"2001:db8:{number}::1" if six else f"198.51.100.{16 * number + 1}"


def client(number: int, *, six: bool = False) -> str:
    """The client's address where that node is."""
    return f"2001:db8:{number}::2" if six else f"198.51.100.{16 * number + 2}"


def task(number: int, network: int = 0) -> str:
    """A task's address in the ingress network (0), in blue (9) or green (8)."""
    return f"10.0.{network}.1{number}"


@dataclass
class Wish:
    """How the mesh is to be; ``tasks``: nodes that have one of the service."""

    preserve: bool = True
    drain_s: int = 0
    tasks: Sequence[int] = NODES
    underlay: str = "socket"
    weight: int = 1
    extra: str = ""


def _tunnelled(name: str, vni: int, subnet: int, here: int, at: Sequence[int], more: str = "") -> str:
    """A network of all three, with a station of each node of ``at``."""
    text = f"""
[[network]]
name = "{name}"
vni = {vni}
subnet = ["10.0.{subnet}.0/24", "fd00:{subnet}::/64"]
gateway = ["10.0.{subnet}.1", "fd00:{subnet}::1"]
proxy = true
{more}
"""
    for n in NODES:
        if n != here:
            text += f'[[network.peer]]\nvtep = "192.0.2.{n}"\n'
    for n in at:
        place = f'port = "{name}{n}"' if n == here else f'vtep = "192.0.2.{n}"'
        addresses = f'"10.0.{subnet}.1{n}", "fd00:{subnet}::1{n}"'
        text += f'[[network.endpoint]]\n{place}\nip = [{addresses}]\nname = "east.{n}"\n'
    return text


def config(number: int, tasks: Sequence[str], caller: str, wish: Wish) -> str:
    """The node's file: a lan with the client, the ingress network, blue for all tasks, green for that of node 1."""
    lb = "".join(
        f'[[network.endpoint]]\nvtep = "192.0.2.{n}"\nip = "10.0.0.10{n}"\n' for n in NODES if n != number
    )
    ingress = "preserve_source = true" if wish.preserve else f'own = "10.0.0.10{number}"'
    masquerade = "" if wish.preserve else f'masquerade = "10.0.0.10{number}"\n'
    text = f"""
[node]
name = "n{number}"
vtep = "192.0.2.{number}"

[mesh]
seed = {number}
connections = 65536

[live]
underlay = "{wish.underlay}"
drain_s = {wish.drain_s}
upstream = "192.0.2.99"
"""
    taps = {f"lan{number}": (caller, False), f"ingress{number}": (tasks[number - 1], True)}
    taps[f"blue{number}"] = tasks[number - 1], False
    if number == 1:
        taps["green1"] = tasks[0], False
    for port, (namespace, route) in taps.items():
        text += f'[[live.tap]]\nport = "{port}"\nnamespace = "{namespace}"\nroute = {str(route).lower()}\n'
    text += f"""
[[network]]
name = "lan"
lan = true
subnet = ["198.51.100.{16 * number}/28", "2001:db8:{number}::/64"]
gateway = ["{entry(number)}", "{entry(number, six=True)}"]
learn = false
flood = "off"
[[network.endpoint]]
port = "lan{number}"
ip = ["{client(number)}", "{client(number, six=True)}"]
[[network.route]]
to = "0.0.0.0/0"
via = "{client(number)}"
"""
    text += _tunnelled("ingress", 4096, 0, number, NODES, ingress)
    if not wish.preserve:
        text += lb
    text += _tunnelled(
        "blue", 4097, 9, number, NODES, f'resolver = ["{RESOLVER}", "{RESOLVER6}"]\noutside = "lan"'
    )
    text += _tunnelled("green", 4098, 8, number, (1,), "internal = true")
    for name, published, at in (("web", (HTTP, ECHO), wish.tasks), ("two", (OF_TWO,), (1, 2))):
        text += f'\n[[service]]\nname = "{name}"\nservers_in = "ingress"\n{masquerade}'
        for port in published:
            target = 7 if port == ECHO else 80
            text += f'[[service.publish]]\nnetwork = "lan"\npublished = {port}\ntarget = {target}\n'
        for n in at:
            text += f'[[service.server]]\naddress = "10.0.0.1{n}"\nweight = {wish.weight}\n'
            if wish.preserve:
                text += f'[[service.server]]\naddress = "fd00:0::1{n}"\nweight = {wish.weight}\n'
    text += '\n[[service]]\nname = "east"\naliases = "e"\n'
    for one in (VIRTUAL, VIRTUAL6):
        text += f'[[service.virtual]]\nnetwork = "blue"\naddress = "{one}"\n'
    for n in wish.tasks:
        text += f'[[service.server]]\naddress = "10.0.9.1{n}"\n[[service.server]]\naddress = "fd00:9::1{n}"\n'
    text += f'\n[[service]]\nname = "inside"\n[[service.virtual]]\nnetwork = "green"\naddress = "{INSIDE}"\n'
    text += '[[service.server]]\naddress = "10.0.8.11"\n'
    return text + wish.extra


@dataclass
class Mesh:
    """The nodes, and the namespaces of their tasks and of the client."""

    folder: Path
    hosts: list[str]
    tasks: list[str]
    client: str
    wish: Wish
    nodes: dict[int, Node] = field(default_factory=dict)
    programs: dict[tuple[str, int], subprocess.Popen[str]] = field(default_factory=dict)

    def config(self, number: int, wish: Wish | None = None) -> str:
        return config(number, self.tasks, self.client, wish or self.wish)

    def up(self) -> None:
        """All three, one beside the other."""
        for number in NODES:
            self.nodes[number] = Node(self.hosts[number - 1], self.folder, self.config(number), name=f"n{number}")
            self.nodes[number].start()

    def down(self) -> None:
        """Those that are still there."""
        for node in self.nodes.values():
            if node.process is not None and node.process.poll() is None:
                assert node.stop() == 0, node.log

    # What nodes are asked and told.

    def ask(self, number: int, do: str, **rest: object) -> list[dict[str, Any]]:
        with contextlib.closing(ControlClient(str(self.nodes[number].control))) as asking:
            return list(asking.ask(do, **rest))

    def set(self, number: int, words: str) -> str:
        """As ``vxlanfast set`` does it."""
        return str(self.ask(number, "set", **parse(words.split()))[0]["said"])

    def set_all(self, words: str) -> None:
        for number in NODES:
            self.set(number, words)

    def table(self, number: int, table: str) -> Any:
        """As ``vxlanfast show -j``."""
        replies = self.ask(number, "show", table=table, format="json")
        if "value" in replies[0]:
            return replies[0]["value"]
        return [row for reply in replies for row in reply["rows"]]

    def reload(self, number: int, wish: Wish) -> None:
        """Over the control socket."""
        self.nodes[number].config.write_text(self.config(number, wish))
        self.ask(number, "reload")

    def open_to(self, address: str) -> int:
        """Connections to a server that are established or about to be, by the nodes' reckoning."""
        return sum(
            row["state"] in ("SYN_RECV", "ESTABLISHED") and row["server"] == address
            for number in NODES for row in self.table(number, "connections")
        )  # fmt: skip

    # What tasks and the client do.

    def curl(self, to: str, *options: str, at: str = "", check: bool = True) -> str:
        """The body, of a connection of its own; the task's name here."""
        done = run(at or self.client, "curl", "-sS", "--max-time", 20, *options, f"http://{to}/name", check=check)
        return done.stdout.strip()

    def dig(self, at: int, *words: str, resolver: str = RESOLVER) -> str:
        """What task ``at`` is told, without comments."""
        options = ("+short", "+tries=3", "+time=5")
        return run(self.tasks[at - 1], "dig", f"@{resolver}", *options, *words).stdout.strip()

    def status(self, at: int, *words: str) -> str:
        """The code of an answer."""
        text = run(self.tasks[at - 1], "dig", f"@{RESOLVER}", "+tries=3", "+time=5", *words).stdout
        return text.partition("status: ")[2].partition(",")[0]

    def kill(self, kind: str, number: int) -> None:
        """A task's program ends, and the processes that it has made: without a word to anybody."""
        process = self.programs[kind, number]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        port = {"http": 80, "echo": 7}[kind]
        until("nobody listens", lambda: not _listens(self.tasks[number - 1], port))


@contextlib.contextmanager
def mesh(folder: Path, wish: Wish | None = None, *, servers: str = "python") -> Iterator[Mesh]:
    """The nodes up, their tasks too: HTTP by ``servers`` ("python", "nginx"), and echo."""
    wish = wish or Wish()
    with namespaces("h", "n1", "n2", "n3", "t1", "t2", "t3", "c") as (middle, *rest), contextlib.ExitStack() as stack:
        hosts, tasks, caller = rest[:3], rest[3:6], rest[6]
        hub(middle, hosts)
        for number, host in enumerate(hosts, 1):
            address(host, "wire", f"192.0.2.{number}/24")
        made = Mesh(folder, hosts, tasks, caller, wish)
        try:
            made.up()
            for number in NODES:
                stack.enter_context(_tasks(made, number, servers))
            for number in NODES:
                until(f"task {number} listens", lambda number=number: _listens(tasks[number - 1], 80, 7))
            yield made
        finally:
            for node in made.nodes.values():
                if node.process is not None and node.process.poll() is None:
                    node.stop()


@contextlib.contextmanager
def _tasks(made: Mesh, number: int, servers: str) -> Iterator[None]:
    namespace, name, folder = made.tasks[number - 1], f"t{number}", made.folder
    (folder / name).mkdir()
    (folder / name / "name").write_text(f"{name}\n")
    (folder / f"{name}.conf").write_text(NGINX.format(folder=folder, name=name))
    http: tuple[object, ...] = PYTHON, "-u", "-m", "http.server", "80", "--bind", "::", "--directory", folder / name
    if servers == "nginx":
        http = "nginx", "-c", folder / f"{name}.conf", "-e", folder / f"{name}.nginx.log"
    with (
        (folder / f"{name}.http.log").open("w") as log,
        (folder / f"{name}.echo.log").open("w") as echoed,
        background(namespace, *http, stdout=log, stderr=log, process_group=0) as one,
        background(namespace, PYTHON, "-c", ECHO_TASK, name, 7, stdout=echoed, stderr=echoed, process_group=0) as two,
    ):
        made.programs["http", number], made.programs["echo", number] = one, two
        yield


def _listens(namespace: str, *ports: int) -> bool:
    """Whether somebody does on all of them."""
    said = run(namespace, "cat", "/proc/net/tcp6").stdout
    return all(f":{port:04X} 00000000000000000000000000000000:0000 0A" in said for port in ports)


def shown(value: object) -> str:
    """For people who read a failure."""
    return json.dumps(value, indent=1, default=str)


__all__ = ["ControlError", "Mesh", "Wish", "client", "config", "entry", "mesh", "shown", "task"]
