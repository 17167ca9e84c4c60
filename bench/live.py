"""The live node beside the kernel's vxlan, nftables and Open vSwitch: streams, small packets, echoes and connections.

    python bench/live.py                                    all of it, three rounds, root
    python bench/live.py --sides kernel,sockets,tap         some sides
    python bench/live.py --rows tcp,latency                 some tables
    python bench/live.py --markdown bench/live.md

Every side has a turn a round, the order reversed every other round; a turn builds its path anew and measures
everything on it. Shown are medians of rounds; ratios are medians of the rounds' own, to the kernel of the same round.
See README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from live_sides import BASELINES, PATIENCE_S, PORTS, SIDES, CannotError, Ends, Lab, Side, end, sweep

from vxlanfast.benchmark import machine
from vxlanfast.benchmark.report import rounded, times

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 3
PORT = PORTS[0]
#: Bytes of payload: of the smallest frame, and of an echo.
SMALL, ECHO = 18, 64
#: Echoes and connections under way at once.
WINDOW = 64
#: Tables, and the jobs that they are of.
ROWS = {"tcp": "overlay", "small": "overlay", "latency": "overlay", "nat": "nat"}
TICKS = os.sysconf("SC_CLK_TCK")

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured, and for how many seconds. ``patience_s``: how long something that came to nothing is measured
    again. ``iperf``: the program for streams, "" for our own."""

    rounds: int = ROUNDS
    sides: tuple[Side, ...] = SIDES
    rows: tuple[str, ...] = tuple(ROWS)
    stream_s: int = 2
    small_s: float = 1.5
    asks_s: float = 1.0
    delay_s: float = 2.0
    connect_s: float = 1.5
    patience_s: float = 0.0
    iperf: str = ""


def load_program() -> Path:
    """live_load.c, compiled for this machine where it is newer. CannotError: there is no compiler, or it complains."""
    source = ROOT / "bench" / "live_load.c"
    made = ROOT / "build" / "bench" / "live_load"
    if made.exists() and made.stat().st_mtime >= source.stat().st_mtime:
        return made
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
    if compiler is None:
        raise CannotError("gcc is not installed, and bench/live_load.c has to be compiled")
    made.parent.mkdir(parents=True, exist_ok=True)
    fresh = made.with_suffix(f".{os.getpid()}")
    done = subprocess.run([compiler, "-O2", "-o", fresh, source], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotError(f"bench/live_load.c: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    fresh.rename(made)
    return made


# Processor time.


def busy_seconds() -> float:
    """Of all cores, whoever had them: user, nice, system, interrupts."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _wait, irq, softirq = map(int, words[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def others(seconds: float = 0.5) -> float:
    """Cores that are busy already, before anything is measured."""
    before, began = busy_seconds(), time.monotonic()
    time.sleep(seconds)
    return (busy_seconds() - before) / (time.monotonic() - began)


def process_seconds(pids: Sequence[int]) -> float:
    """Of processes, all threads."""
    total = 0.0
    for pid in pids:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(words[11]) + int(words[12])) / TICKS
    return total


# Loads.


class NothingError(CannotError):
    """Nothing came through, in all the time that was given: no path, or no processor."""


class Load:
    """What is measured on one path; a server at one end, a client at the other."""

    def __init__(self, lab: Lab, ends: Ends, program: Path, settings: Settings) -> None:
        self.lab, self.ends, self.program, self.settings = lab, ends, program, settings

    def served(self, at: tuple[str, str], verb: str, *more: object) -> subprocess.Popen[str]:
        """A server of live_load, listening at (namespace, address)."""
        namespace, address = at
        server = self.lab.start(namespace, self.program, verb, address, PORT, *more, cpus=self.ends.cpus)
        assert server.stdout is not None
        if server.stdout.readline().strip() != "ready":
            raise CannotError(f"live_load {verb}: {server.stdout.readline().strip() or 'it ended'}")
        return server

    @staticmethod
    def ended(server: subprocess.Popen[str], *, ask: bool = True) -> dict[str, Any]:
        """What a server did."""
        if ask:
            server.terminate()
        try:
            said, _ = server.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            end(server)
            raise CannotError("a server of live_load does not end") from None
        return parsed(said)

    def asked(self, namespace: str, verb: str, address: str, *more: object, seconds: float) -> dict[str, Any]:
        """What a client of live_load did."""
        return parsed(self.lab.run(
            namespace, self.program, verb, address, PORT, *more, timeout=seconds + PATIENCE_S, cpus=self.ends.cpus
        ))  # fmt: skip

    def stream(self, *, inward: bool) -> Figures:
        """One TCP stream, begun by the left: "sent" and "received" bytes, Gbit/s, processor seconds a gigabyte."""
        ends, before, own = self.ends, busy_seconds(), process_seconds(self.ends.daemons)
        figures = (self.by_iperf if self.settings.iperf else self.by_own)(inward)
        gigabytes = figures["received"] / 1e9
        if not gigabytes:
            raise NothingError("no byte of a stream arrived")
        figures["gbit"] = gigabytes * 8 / figures["seconds"]
        figures["cpu"] = (busy_seconds() - before) / gigabytes
        if ends.daemons:
            figures["own"] = (process_seconds(ends.daemons) - own) / gigabytes
        return figures

    def by_iperf(self, inward: bool) -> Figures:
        """By iperf3."""
        ends, seconds = self.ends, self.settings.stream_s
        server = self.lab.start(
            ends.right, self.settings.iperf, "-s", "-1", "-p", PORT, "-B", ends.at, cpus=ends.cpus,
            log=self.lab.folder / "iperf.log",
        )  # fmt: skip
        self.lab.until("iperf3 listens", lambda: listens(server, ends.right, PORT))
        client = [self.settings.iperf, "-c", ends.right_address, "-p", PORT, "-t", seconds, "-J"]
        said = parsed(self.lab.run(
            ends.left, *client, *(["-R"] if inward else []), timeout=seconds + PATIENCE_S, cpus=ends.cpus
        ))  # fmt: skip
        end(server)
        total = said["end"]
        return {
            "sent": total["sum_sent"]["bytes"], "received": total["sum_received"]["bytes"],
            "seconds": total["sum_received"]["seconds"], "again": total["sum_sent"].get("retransmits", 0),
        }  # fmt: skip

    def by_own(self, inward: bool) -> Figures:
        """By live_load."""
        ends, seconds = self.ends, float(self.settings.stream_s)
        at = (ends.right, ends.at)
        server = self.served(at, "source", seconds) if inward else self.served(at, "sink")
        verb = "read" if inward else "write"
        here = self.asked(ends.left, verb, ends.right_address, seconds, seconds=seconds)
        there = self.ended(server, ask=False)
        return {**here, **there, "seconds": (here if inward else there)["seconds"]}

    def small(self, *, inward: bool) -> Figures:
        """Small datagrams as fast as they go: "sent", "received", and million packets a second of these."""
        ends, seconds = self.ends, self.settings.small_s
        at = (ends.left, ends.left_address) if inward else (ends.right, ends.at)
        server = self.served(at, "receive")
        namespace, to = (ends.right, ends.left_address) if inward else (ends.left, ends.right_address)
        sent = self.asked(namespace, "flood", to, SMALL, seconds, seconds=seconds)
        time.sleep(0.1)  # what is under way arrives
        got = self.ended(server)
        if not got["seconds"]:
            raise NothingError("no datagram arrived")
        return {"sent": sent["sent"], "received": got["received"], "mpps": got["received"] / got["seconds"] / 1e6}

    def latency(self) -> Figures:
        """Echoes: as many as there can be, and what each takes (µs) at half of that."""
        ends, settings = self.lab.answers(self.ends), self.settings  # behind what other rows left in queues
        server = self.served((ends.right, ends.at), "echo")
        most = self.asked(
            ends.left, "asks", ends.right_address, ECHO, settings.asks_s, WINDOW, seconds=settings.asks_s
        )
        rate = int(most["received"] / most["seconds"] / 2)
        took: dict[str, Any] = {"received": 0}
        if rate * settings.delay_s >= 1:
            took = self.asked(
                ends.left, "delay", ends.right_address, ECHO, settings.delay_s, rate, seconds=settings.delay_s
            )
        self.ended(server)
        if not took["received"]:
            raise NothingError("no echo arrived")
        return {**took, "rate": rate, "loss": 1 - took["received"] / took["sent"]}

    def connections(self) -> Figures:
        """Connections opened and closed a second, thousands."""
        ends, seconds = self.ends, self.settings.connect_s
        server = self.served((ends.right, ends.at), "accept")
        opened = self.asked(ends.left, "connect", ends.right_address, seconds, WINDOW, seconds=seconds)
        accepted = self.ended(server)
        if not opened["done"]:
            raise NothingError("no connection was made")
        return {**opened, **accepted, "kcps": opened["done"] / opened["seconds"] / 1e3}

    def turn(self, how: Callable[[Load], Figures]) -> Figures:
        """A measure of the path; again where nothing came through, while there is patience."""
        limit = time.monotonic() + self.settings.patience_s
        while True:
            try:
                return how(self)
            except NothingError:
                if time.monotonic() >= limit:
                    raise


def parsed(said: str) -> dict[str, Any]:
    """A program's JSON."""
    try:
        made: dict[str, Any] = json.loads(said)
    except ValueError:
        raise CannotError(f"no JSON: {said.strip()[:60]!r}") from None
    return made


def listens(process: subprocess.Popen[str], namespace: str, port: int) -> bool:
    """Whether somebody does in the namespace that the process is in by now. CannotError: it ended."""
    if process.poll() is not None:
        raise CannotError("the server ended")
    if os.stat(f"/proc/{process.pid}/ns/net").st_ino != os.stat(f"/run/netns/{namespace}").st_ino:
        return False
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{process.pid}/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[1].endswith(f":{port:04X}") and words[3] == "0A":  # TCP_LISTEN
                return True
    return False


#: What is measured: its name, the table it is of, how.
MEASURES: tuple[tuple[str, str, Callable[[Load], Figures]], ...] = (
    ("tcp out", "tcp", lambda load: load.stream(inward=False)),
    ("tcp in", "tcp", lambda load: load.stream(inward=True)),
    ("small out", "small", lambda load: load.small(inward=False)),
    ("small in", "small", lambda load: load.small(inward=True)),
    ("latency", "latency", lambda load: load.latency()),
    ("nat small", "nat", lambda load: load.small(inward=False)),
    ("nat connections", "nat", lambda load: load.connections()),
)


class Results:
    """Figures of all turns, and why there are none: by what was measured and the side's key, of each round."""

    def __init__(self) -> None:
        self.turns: dict[tuple[str, str], dict[int, Figures]] = {}
        self.reasons: dict[str, str] = {}
        self.others = others()

    def median(self, what: str, side: str, key: str) -> float | None:
        """Of the rounds that have it."""
        found = [turn[key] for turn in self.turns.get((what, side), {}).values() if key in turn]
        return statistics.median(found) if found else None

    def ratio(self, what: str, side: Side, key: str) -> float | None:
        """The median of ratios to the baseline of the same round."""
        base = self.turns.get((what, BASELINES[side.job]), {})
        mine = self.turns.get((what, side.key), {})
        found = [mine[n][key] / base[n][key] for n in mine if n in base and mine[n].get(key) and base[n].get(key)]
        return statistics.median(found) if found else None


def measure(settings: Settings, say: Callable[[str], None]) -> Results:
    """Everything."""
    program = load_program()
    results = Results()
    for number in range(settings.rounds):
        for side in settings.sides if number % 2 == 0 else settings.sides[::-1]:
            wanted = [m for m in MEASURES if m[1] in settings.rows and ROWS[m[1]] == side.job]
            if not wanted:
                continue
            say(f"round {number + 1} of {settings.rounds}: {side.name}")
            try:
                with Lab() as lab:
                    load = Load(lab, side.build(lab, side), program, settings)
                    for what, _, how in wanted:
                        results.turns.setdefault((what, side.key), {})[number] = load.turn(how)
            except (CannotError, OSError) as error:  # a process that went has no entry in /proc
                results.reasons[side.key] = f"{error} (round {number + 1})"
                say(f"  {side.name}: {error}")
    return results


# Tables.


def cell(value: float | None) -> str:
    return "" if value is None else rounded(value)


def percent(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value * 100:.2g} %"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] + ["--:"] * (len(heads) - 1)
    return [f"| {' | '.join(row)} |" for row in (heads, rule, *rows)] + [""]


def both(results: Results, what: str, side: Side, key: str) -> tuple[str, str]:
    """A figure, and its ratio to the kernel's."""
    is_base = side.key == BASELINES[side.job]
    return cell(results.median(what, side.key, key)), "1" if is_base else times(results.ratio(what, side, key))


def target(side: Side, pinned: str, free: str) -> str:
    """What ours is to reach."""
    return f"{pinned if side.pinned else free}; 1.0" if side.ours else ""


def tcp_row(results: Results, side: Side) -> list[str]:
    cells = [*both(results, "tcp out", side, "gbit"), *both(results, "tcp in", side, "gbit")]
    cells.append(target(side, "0.75", "0.55"))
    for key in ("cpu", "own"):
        cells += [cell(results.median(what, side.key, key)) for what in ("tcp out", "tcp in")]
    return cells


def small_row(results: Results, side: Side) -> list[str]:
    cells: list[str] = []
    for what in ("small out", "small in"):
        cells += both(results, what, side, "mpps")
        sent, got = (results.median(what, side.key, key) for key in ("sent", "received"))
        cells.append("" if not sent or got is None else percent(max(0.0, 1 - got / sent)))
    return [*cells, target(side, "0.7", "0.7")]


def latency_row(results: Results, side: Side) -> list[str]:
    rate = results.median("latency", side.key, "rate")
    cells = ["" if rate is None else f"{rate:,.0f}"]
    for key in ("p50", "p99", "p99.9"):
        cells += both(results, "latency", side, key)
    loss, late = (results.median("latency", side.key, key) for key in ("loss", "late"))
    return [*cells, percent(loss), cell(late)]


def nat_row(results: Results, side: Side) -> list[str]:
    cells = [*both(results, "nat small", side, "mpps"), *both(results, "nat connections", side, "kcps")]
    failed = results.median("nat connections", side.key, "failed")
    return [*cells, "" if failed is None else f"{failed:,.0f}", target(side, "0.6", "0.6")]


TABLES: dict[str, tuple[tuple[str, ...], Callable[[Results, Side], list[str]]]] = {
    "tcp": (
        ("P9: TCP, one stream", "out, Gbit/s", "× kernel", "in, Gbit/s", "× kernel", "ship; moonshot", "CPU s/GB, out",
         "in", "of the forwarder, out", "in"),
        tcp_row,
    ),
    "small": (
        ("P10: UDP of 18 bytes, received", "out, Mpps", "× kernel", "lost", "in, Mpps", "× kernel", "lost",
         "ship; moonshot"),
        small_row,
    ),
    "latency": (
        ("UDP echo of 64 bytes, half load", "echoes/s", "p50, µs", "× kernel", "p99, µs", "× kernel", "p99.9, µs",
         "× kernel", "lost", "late, µs"),
        latency_row,
    ),
    "nat": (
        ("P11: address translation", "UDP of 18 bytes, Mpps", "× nftables", "connections, k/s", "× nftables", "failed",
         "ship; moonshot"),
        nat_row,
    ),
}  # fmt: skip


def markdown(results: Results, settings: Settings) -> str:
    """Every table, what is not there and why, and the machine."""
    lines: list[str] = []
    for row in settings.rows:
        heads, cells = TABLES[row]
        body = []
        for side in settings.sides:
            if side.job == ROWS[row]:
                name = f"**{side.name}**" if side.ours else side.name
                there = any((m[0], side.key) in results.turns for m in MEASURES if m[1] == row)
                body.append([name, *(cells(results, side) if there else ["–"] * (len(heads) - 1))])
        if body:
            lines += table(heads, body)
    names = {side.key: side.name for side in settings.sides}
    lines += [f"{names[key]}: {reason}." for key, reason in results.reasons.items()]
    if results.reasons:
        lines.append("")
    streams = "iperf3" if settings.iperf else "live_load.c"
    lines.append(
        f"In turns; medians of {settings.rounds} {'round' if settings.rounds == 1 else 'rounds'}, ratios to the kernel"
        f" of the same round; streams by {streams}. Other processes had {results.others:.2f} cores when it began."
    )
    lines += ["", f"{', '.join(machine.describe().values())}."]
    return "\n".join(lines) + "\n"


def as_json(results: Results, settings: Settings) -> dict[str, Any]:
    """Every turn's figures."""
    turns = [
        {"round": number, "side": side, "what": what, **figures}
        for (what, side), rounds in results.turns.items() for number, figures in rounds.items()
    ]  # fmt: skip
    return {"machine": machine.describe(), "rounds": settings.rounds, "turns": turns, "reasons": results.reasons,
            "others": results.others}  # fmt: skip


# The program.


def chosen(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{what} {name!r}: {', '.join(known)}")
    return names


def parse(argv: Sequence[str] | None) -> tuple[Settings, argparse.Namespace]:
    """What the command line asks for."""
    keys = [side.key for side in SIDES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=None, help=f"turns of each side (default {ROUNDS}; quick: 1)")
    parser.add_argument("--quick", action="store_true", help="short turns: everything is done, figures mean little")
    parser.add_argument(
        "--sides", type=lambda text: chosen(text, keys, "side"), default=keys, help=f"of {', '.join(keys)}"
    )
    parser.add_argument(
        "--rows", type=lambda text: chosen(text, list(ROWS), "table"), default=tuple(ROWS),
        help=f"of {', '.join(ROWS)}",
    )  # fmt: skip
    parser.add_argument("--own-streams", action="store_true", help="streams by live_load.c, even where iperf3 is")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there as well")
    parser.add_argument("--json", metavar="FILE", help="write every turn's figures there")
    given = parser.parse_args(argv)
    rounds = given.rounds if given.rounds is not None else 1 if given.quick else ROUNDS
    if rounds < 1:
        parser.error(f"--rounds {rounds}: at least 1")
    quick: dict[str, Any] = {"stream_s": 1, "small_s": 0.3, "asks_s": 0.3, "delay_s": 0.3, "connect_s": 0.3,
                             "patience_s": PATIENCE_S}  # fmt: skip
    settings = Settings(
        rounds=rounds, sides=tuple(side for side in SIDES if side.key in given.sides),
        rows=tuple(row for row in ROWS if row in given.rows), **(quick if given.quick else {}),
        iperf="" if given.own_streams else shutil.which("iperf3") or "",
    )  # fmt: skip
    return settings, given


def main(argv: Sequence[str] | None = None) -> int:
    """The program; its exit code."""
    settings, given = parse(argv)
    if os.geteuid() != 0:
        print("live.py: network namespaces need root", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # labs are cleared on the way out
    sweep()
    try:
        results = measure(settings, lambda text: print(text, file=sys.stderr, flush=True))
    except CannotError as error:
        print(f"live.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    text = markdown(results, settings)
    print(text, end="")
    if given.markdown:
        Path(given.markdown).write_text(text)
    if given.json:
        Path(given.json).write_text(json.dumps(as_json(results, settings), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
