"""Takes turns: every side once a round, so that all of them meet the same weather, and ratios are of one
round.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from time import perf_counter, process_time

from vxlanfast.benchmark import machine
from vxlanfast.benchmark.inputs import RECORD_HEADER_LEN, TRAFFIC, Traffic, write_twins
from vxlanfast.benchmark.peers import BASELINE, PEERS, Peer, Task, call, check
from vxlanfast.benchmark.results import CANNOT, FAILED, MEASURED, NOT_INSTALLED, Figure, Report
from vxlanfast.errors import OutputError, SpecError, VxlanFastError

JOBS = ("decap", "encap", "memory", "plane", "mesh", "startup")
PACKETS = 8_000_000
ROUNDS = 5
#: Bytes of file for each packet asked for: with the default number, files of 1.2 GB at most.
FILE_BYTES_PER_PACKET = 150
#: A side that needs this many seconds sits out after so many rounds.
SLOW_S = 3.0
SLOW_ROUNDS = 2
#: Characters shown of what a failing program says.
RESULT_LEN = 60
#: Runs of a side in a row, of which the fastest counts.
RUNS = 3
#: Seconds after which a job and size starts no further round.
BUDGET_S = 120.0
#: Processes of milliseconds need more rounds for a median.
STARTUP_ROUNDS = 15
STARTUP_PACKETS = 10
#: Runs of fewer packets only show that everything works.
TRIAL_PACKETS = 100_000

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to measure. ``packets``: of 64-byte frames; of larger ones as many as make files of the same
    order.
    """

    packets: int = PACKETS
    rounds: int = ROUNDS
    sizes: tuple[str, ...] = tuple(TRAFFIC)
    jobs: tuple[str, ...] = JOBS
    workdir: Path | None = None
    budget_s: float = BUDGET_S

    def __post_init__(self) -> None:
        for given, known, what in ((self.sizes, tuple(TRAFFIC), "size"), (self.jobs, JOBS, "job")):
            for name in given:
                if name not in known:
                    raise SpecError(f"{what} {name!r}: {', '.join(known)}")
        if self.packets < 1 or self.rounds < 1:
            raise SpecError(f"{self.packets} packets, {self.rounds} rounds: at least 1")

    def packets_of(self, traffic: Traffic) -> int:
        """How many packets of this traffic."""
        return max(1, min(self.packets, traffic.packets_within(self.packets * FILE_BYTES_PER_PACKET)))

    @property
    def is_trial(self) -> bool:
        """So few packets that the figures mean nothing: everything is done, and quickly."""
        return self.packets < TRIAL_PACKETS

    def bytes_needed(self) -> int:
        """Bytes of files there are at once: two inputs, an output, and one to check it with."""
        sizes = (TRAFFIC[name] for name in self.sizes)
        return max((2 * t.file_len(self.packets_of(t), vxlan=True) for t in sizes), default=0) * 2


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one side: wall seconds, processor seconds, and what it printed."""

    seconds: float
    cpu_seconds: float
    code: int = 0
    said: str = ""


def run_process(argv: Sequence[str], folder: Path, stdout: Path | None = None) -> Run:
    """Start a program, wait for it. No shell; its output goes to files. ``stdout``: to this one, and not
    into ``said``.
    """
    out, err = stdout or folder / "out", folder / "err"
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(out), write, 0o644),
        (os.POSIX_SPAWN_OPEN, 2, str(err), write, 0o644),
    ]
    began = perf_counter()
    pid = os.posix_spawnp(argv[0], list(argv), os.environ, file_actions=actions)
    try:
        _, status, usage = os.wait4(pid, 0)
    except BaseException:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
        raise
    seconds = perf_counter() - began
    code = os.waitstatus_to_exitcode(status)
    said = err.read_text(errors="replace") if code else "" if stdout else out.read_text(errors="replace")
    return Run(seconds, usage.ru_utime + usage.ru_stime, code, said.strip())


def run_call(task: Task) -> Run:
    """The library call."""
    began, cpu_began = perf_counter(), process_time()
    code, said = 0, ""
    try:
        call(task)
    except VxlanFastError as error:
        code, said = error.exit_code, str(error)
    return Run(perf_counter() - began, process_time() - cpu_began, code, said)


@contextmanager
def cores(threads: int) -> Iterator[None]:
    """This process, and whatever it starts, on so many of its cores, the last ones; where the system can.

    A process that wanders from core to core finds neither its cache nor the memory that the last run of the
    same size left behind there: ``cp`` of one file took between 0.4 and 2.7 s where it could, and 0.36 to
    0.46 s where it could not.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-threads:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_peer(peer: Peer, task: Task, folder: Path) -> Run:
    """One run of a peer, into a fresh output file, on as many cores as it has threads."""
    task.target.unlink(missing_ok=True)
    with cores(peer.threads):
        if peer.in_process:
            return run_call(task)
        return run_process(peer.argv(task), folder, task.target if peer.to_stdout else None)


@dataclass(slots=True)
class Side:
    """A peer in a comparison, with what it has shown so far."""

    peer: Peer
    task: Task
    packets: int  # the figure is given for; more than the task's where the time is scaled up
    runs: list[Run] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    result: str = ""
    state: str = MEASURED
    slow: bool = False
    size: int = 0  # of the output

    def seconds_of(self, run: Run) -> float:
        """Wall seconds for all packets: start-up counts once, the rest grows with the number."""
        if self.packets == self.task.packets:
            return run.seconds
        inner = float(run.said.split()[-1])
        return run.seconds - inner + inner * self.packets / self.task.packets

    def warm_up(self, folder: Path) -> None:
        """The first run: brings program and files into memory, and shows whether the output is right."""
        run = run_peer(self.peer, self.task, folder)
        if self.fails(run):
            return
        if run.seconds > SLOW_S:  # or only the first of all was
            run = min(run, run_peer(self.peer, self.task, folder), key=lambda run: run.seconds)
        self.slow = run.seconds > SLOW_S
        self.result = check(self.peer, self.task)
        self.size = self.task.output_len()
        if not self.result.startswith(("identical", "correct", "a copy")):
            self.state = FAILED
        elif self.peer.blind:
            self.result += ", blind"

    def fails(self, run: Run) -> bool:
        """Whether the program says so; then nothing it did counts."""
        if run.code:
            last = run.said.splitlines()[-1] if run.said else ""
            self.state, self.result = FAILED, f"exit code {run.code}: {last[:RESULT_LEN]}"
            self.runs.clear()
            self.limits.clear()
        return self.state == FAILED

    def turn(self, folder: Path, limit: float | None) -> float | None:
        """The fastest of a few runs in a row, its seconds; None: one failed. ``limit``: what the baseline took.

        A virtual machine gives memory that nobody uses back to its host, within seconds, and getting it again
        takes several times as long as writing to it: the first of the runs pays for that, whoever it is of.
        """
        runs = []
        for _ in range(1 if self.slow else RUNS):
            run = run_peer(self.peer, self.task, folder)
            if not run.code and self.task.output_len() != self.size:
                run = Run(run.seconds, run.cpu_seconds, 1, "another output than before")
            if self.fails(run):
                return None
            runs.append(run)
        best = min(runs, key=self.seconds_of)
        seconds = self.seconds_of(best)
        self.runs.append(best)
        if self.peer.name == BASELINE:
            limit = seconds
        if limit is not None:
            self.limits.append(limit)
        return seconds

    def figure(self) -> Figure:
        """What came of it."""
        traffic = self.task.traffic
        return Figure(
            job=self.task.job,
            size=traffic.name,
            side=self.peer.name,
            packets=self.packets,
            packet_len=traffic.file_len(self.packets, vxlan=True) / self.packets,
            seconds=tuple(self.seconds_of(run) for run in self.runs),
            limit_seconds=tuple(self.limits),
            cpu_seconds=tuple(run.cpu_seconds for run in self.runs),
            measured_packets=self.task.packets,
            state=self.state,
            result=self.result,
            note=self.peer.note,
            version=self.peer.version(),
        )


def absent(job: str, traffic: Traffic, peer: Peer) -> Figure | None:
    """The figure of a peer that takes no part, saying why; None for one that does."""
    reason = peer.refuses(job)
    if reason is not None:
        return Figure(job=job, size=traffic.name, side=peer.name, state=CANNOT, result=reason, note=peer.note)
    if not peer.installed():
        return Figure(
            job=job,
            size=traffic.name,
            side=peer.name,
            state=NOT_INSTALLED,
            result=NOT_INSTALLED,
            note=peer.note,
        )
    return None


def take_turns(
    sides: Sequence[Side], folder: Path, rounds: int, budget_s: float, progress: Progress, title: str
) -> None:
    """A warm-up of each side, then rounds of all of them, the baseline first."""
    for side in sides:
        progress(f"{title}: warm-up, {side.peer.name}")
        side.warm_up(folder)
    began = perf_counter()
    for number in range(rounds):
        if number and perf_counter() - began > budget_s:
            break
        limit = None
        for side in sides:
            is_baseline = side.peer.name == BASELINE
            if side.state == FAILED or (side.slow and number >= SLOW_ROUNDS and not is_baseline):
                continue
            progress(f"{title}: round {number + 1} of {rounds}, {side.peer.name}")
            seconds = side.turn(folder, limit)
            if is_baseline:
                limit = seconds
    for side in sides:
        side.task.target.unlink(missing_ok=True)


class Inputs:
    """Twins of captures in a folder, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[str, int], tuple[Path, Path]] = {}

    def task(self, job: str, traffic: Traffic, packets: int) -> Task:
        """A task on ``packets`` packets."""
        key = (traffic.name, packets)
        if key not in self.made:
            plain, vxlan = (
                self.folder / f"{kind}-{traffic.name}-{packets}.pcap" for kind in ("plain", "vxlan")
            )
            write_twins(plain, vxlan, traffic, packets)
            self.made[key] = plain, vxlan
        plain, vxlan = self.made[key]
        return Task(job, traffic, packets, plain, vxlan, self.folder / "output.pcap")

    def clear(self) -> None:
        """Remove them."""
        for pair in self.made.values():
            for path in pair:
                path.unlink(missing_ok=True)
        self.made.clear()


def measure_files(
    job: str, traffic: Traffic, settings: Settings, inputs: Inputs, progress: Progress
) -> list[Figure]:
    """A job over files of one traffic, by everybody who can."""
    packets = settings.packets_of(traffic)
    title = f"{job} {traffic.label}"
    figures: dict[str, Figure] = {}
    sides = []
    for peer in PEERS:
        missing = absent(job, traffic, peer)
        if missing is not None:
            figures[peer.name] = missing
            continue
        own = min(packets, peer.packets_max or packets)
        progress(f"{title}: writing {own:,} packets")
        sides.append(Side(peer, inputs.task(job, traffic, own), packets))
    take_turns(sides, inputs.folder, settings.rounds, settings.budget_s, progress, title)
    figures |= {side.peer.name: side.figure() for side in sides}
    return [figures[peer.name] for peer in PEERS]


def measure_startup(settings: Settings, inputs: Inputs, progress: Progress) -> list[Figure]:
    """Whole processes that do next to nothing: the interpreter, the import, ten packets."""
    task = inputs.task("decap", TRAFFIC["64"], STARTUP_PACKETS)
    commands: dict[str, list[str]] = {
        "python": [sys.executable, "-c", "pass"],
        "import vxlanfast": [sys.executable, "-c", "import vxlanfast"],
    }
    notes = {"python": "the interpreter alone", "import vxlanfast": "interpreter included"}
    for peer in PEERS:
        if (
            peer.in_process
            or peer.to_stdout
            or "2 threads" in peer.name
            or absent("decap", task.traffic, peer)
        ):
            continue
        commands[f"{peer.name.partition(',')[0]}, {STARTUP_PACKETS} packets"] = peer.argv(task)
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    rounds = settings.rounds if settings.is_trial else max(settings.rounds, STARTUP_ROUNDS)
    began = perf_counter()
    for number in range(rounds + 1):  # the first warms up
        if number > 1 and perf_counter() - began > settings.budget_s:
            break
        progress(f"startup: round {number} of {rounds}")
        for name, argv in commands.items():
            task.target.unlink(missing_ok=True)
            with cores(1):
                run = min((run_process(argv, inputs.folder) for _ in range(RUNS)), key=lambda run: run.seconds)
            if number and run.code == 0:
                seconds[name].append(run.seconds)
                cpu[name].append(run.cpu_seconds)
    return [
        Figure(
            job="startup", size="", side=name, packets=1, seconds=tuple(seconds[name]),
            cpu_seconds=tuple(cpu[name]), state=MEASURED if seconds[name] else FAILED,
            note=notes.get(name, "decap, whole process"),
        )
        for name in commands
    ]  # fmt: skip


@contextmanager
def work_folder(settings: Settings) -> Iterator[Path]:
    """A folder with room for the files, in memory where that is possible; gone at the end."""
    needed = settings.bytes_needed() if {"decap", "encap"} & set(settings.jobs) else 1 << 20
    parent = settings.workdir
    if parent is None:
        shared = Path("/dev/shm")
        parent = Path(tempfile.gettempdir())
        memory = machine.available_bytes()
        if (
            os.access(shared, os.W_OK)
            and _free(shared) > needed * 1.1
            and (memory is None or memory > needed * 1.3)
        ):
            parent = shared
    try:
        free = _free(parent)
    except OSError as error:
        raise OutputError(f"{parent}: {error.strerror}", errno=error.errno, path=str(parent)) from None
    if free < needed:
        raise OutputError(
            f"{parent}: {needed / 1e9:.1f} GB of files, and {free / 1e9:.1f} GB free; --packets makes them"
            " smaller, --workdir puts them elsewhere",
            path=str(parent),
        )
    folder = Path(tempfile.mkdtemp(prefix="vxlanfast-bench-", dir=parent))
    try:
        yield folder
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def run(settings: Settings, progress: Progress = lambda text: None) -> Report:
    """Measure what the settings ask for. ``progress`` gets a line now and then."""
    figures: list[Figure] = []
    notes: dict[str, object] = {}
    with work_folder(settings) as folder:
        inputs = Inputs(folder)
        for name in settings.sizes:
            for job in ("decap", "encap"):
                if job in settings.jobs:
                    figures += measure_files(job, TRAFFIC[name], settings, inputs, progress)
            inputs.clear()
        if "memory" in settings.jobs:
            from vxlanfast.benchmark.memory import SLICE_S, STREAM_LEN, limit_name, measure_memory

            slice_s, stream_len = (
                (0.001, settings.packets * 64) if settings.is_trial else (SLICE_S, STREAM_LEN)
            )
            figures += measure_memory(settings.rounds, progress, slice_s=slice_s, stream_len=stream_len)
            notes["memory_limit"] = limit_name()
        if "plane" in settings.jobs:
            from vxlanfast.benchmark.memory import SLICE_S
            from vxlanfast.benchmark.plane import measure_plane

            slice_s = 0.001 if settings.is_trial else SLICE_S
            figures += measure_plane(settings.rounds, progress, slice_s=slice_s, is_trial=settings.is_trial)
        if "mesh" in settings.jobs:
            from vxlanfast.benchmark.memory import SLICE_S
            from vxlanfast.benchmark.mesh import measure_mesh

            slice_s = 0.001 if settings.is_trial else SLICE_S
            figures += measure_mesh(settings.rounds, progress, slice_s=slice_s, is_trial=settings.is_trial)
        if "startup" in settings.jobs:
            figures += measure_startup(settings, inputs, progress)
        return Report(
            machine=machine.describe(),
            settings={
                "packets": {name: settings.packets_of(TRAFFIC[name]) for name in settings.sizes},
                "rounds": settings.rounds,
                "jobs": list(settings.jobs),
                "files_on": machine.file_system(folder),
                "record_header_bytes": RECORD_HEADER_LEN,
                **notes,
            },
            figures=figures,
        )
