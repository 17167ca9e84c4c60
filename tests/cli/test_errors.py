"""What goes wrong: one line which names the thing, the value and the limit, the exit code, and no file left behind."""

import os
import resource
import signal
import subprocess
from pathlib import Path

import click
import pytest

from tests.make_fixtures import inner_frames, outer_cases
from tests.support import FIXTURES, PYTHON, VERBS_ENV, Pcapng, assert_one_line, frames_of, pcap, vxlanfast

ETHERNET = FIXTURES / "outer-ethernet.pcap"
INNER = FIXTURES / "inner.pcap"
TUNNEL = ("--vni", "42", "--src", "192.0.2.1", "--dst", "192.0.2.2")
READERS = {"decap": (), "encap": TUNNEL, "split": (), "info": ()}


def arguments(verb: str, source: object, folder: Path) -> list[object]:
    """A verb's command line, its outputs in ``folder``."""
    out = {"info": [], "split": [folder / "{vni}.pcap"]}.get(verb, [folder / "out.pcap"])
    return [verb, source, *out, *READERS[verb]]


# --- inputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", READERS)
def test_inputs_that_are_no_captures(verb, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    files = {
        "none": (None, "No such file or directory"),
        "empty": (b"", "empty"),
        "text": (b"It was a dark and stormy night.\n" * 9, "no magic number of pcap or pcapng"),
        "short": (bytes.fromhex("d4c3b2a10200"), ""),
        "directory": (None, "Is a directory"),
    }
    (tmp_path / "directory").mkdir()
    for name, (data, said) in files.items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        text = assert_one_line(vxlanfast(*arguments(verb, path, folder)), 1, str(path))
        assert said.lower() in text.lower()
        assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable(tmp_path):
    path = tmp_path / "secret.pcap"
    path.write_bytes(ETHERNET.read_bytes())
    path.chmod(0)
    assert_one_line(vxlanfast("decap", path, tmp_path / "out"), 1, str(path), "Permission denied")


def test_a_name_of_two_lines(tmp_path):
    path = tmp_path / "a\nb"
    assert_one_line(vxlanfast("decap", path, tmp_path / "out"), 1, "a\\nb")


def test_standard_input_is_empty(tmp_path):
    assert_one_line(vxlanfast("decap", "-", tmp_path / "out"), 1, "<stdin>", "empty")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 16, 20, 100])
@pytest.mark.parametrize("threads", [1, 2])
def test_cut_pcap(cut, threads, tmp_path):
    """Every whole packet, the summary, and then what was wrong and where."""
    source, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    data = ETHERNET.read_bytes()
    source.write_bytes(data[:-cut])
    done = vxlanfast("decap", source, out, "--threads", threads)
    assert done.returncode == 1
    summary, fault = done.stderr.decode().splitlines()
    assert summary == "27 packets read, 27 decapsulated"
    assert fault.startswith(f"vxlanfast: {source}: ") and "at byte" in fault
    assert frames_of(out) == [case.inner for case in outer_cases() if case.link == 1][:27]
    quiet = vxlanfast("decap", source, out, "-q")
    assert_one_line(quiet, 1, str(source))


@pytest.mark.parametrize("verb", READERS)
def test_cut_pcapng(verb, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    ng = Pcapng().interface(1)
    for frame in frames_of(ETHERNET)[:5]:
        ng.epb(frame)
    (tmp_path / "in.pcapng").write_bytes(ng.data[:-6])
    done = vxlanfast(*arguments(verb, tmp_path / "in.pcapng", folder))
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("4 packets read, 4 ")
    assert lines[-1].startswith(f"vxlanfast: {tmp_path}/in.pcapng: ") or verb == "split"
    if verb != "info":
        assert sum(len(frames_of(path)) for path in folder.iterdir()) == 4


@pytest.mark.parametrize("suffix", ["gz", "zst", "lz4"])
def test_cut_compressed(suffix, tmp_path):
    from tests.streams import pack

    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(pack(suffix, ETHERNET.read_bytes())[:-3])
    done = vxlanfast("decap", source, out)
    assert done.returncode == 1
    assert str(source) in done.stderr.decode().splitlines()[-1]
    assert "Traceback" not in done.stderr.decode()


def test_missing_compression_library(tmp_path):
    """What to install is said, and nothing is half done."""
    from tests.streams import pack

    (tmp_path / "zstandard.py").write_text("raise ImportError('not here')\n")
    (tmp_path / "in").write_bytes(pack("zst", ETHERNET.read_bytes()))
    env = {**VERBS_ENV, "PYTHONPATH": f"{tmp_path}{os.pathsep}{VERBS_ENV['PYTHONPATH']}"}
    command = [PYTHON, "-m", "vxlanfast", "decap", str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, env=env, check=False)
    assert_one_line(done, 1, str(tmp_path / "in"), "zstandard", "install")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("link", [147, 127, 999])
def test_unsupported_link_type_throughout(link, tmp_path):
    """Exit code 1 and the link type's name; the output is an empty capture."""
    (tmp_path / "in").write_bytes(pcap(frames_of(ETHERNET), link=link))
    done = vxlanfast("decap", tmp_path / "in", tmp_path / "out")
    assert done.returncode == 1
    name = {147: "USER0 (147)", 127: "IEEE802_11_RADIOTAP (127)", 999: "number 999"}[link]
    assert f"link type {name} is not supported: 28 packets of it" in done.stderr.decode()
    done = vxlanfast("encap", tmp_path / "in", tmp_path / "out", *TUNNEL)
    assert done.returncode == 1
    assert f"link type {name} is not Ethernet" in done.stderr.decode()


def test_unsupported_link_type_for_a_part():
    ng = Pcapng().interface(1).interface(147)
    for n, frame in enumerate(frames_of(ETHERNET)):
        ng.epb(frame, interface=n % 2)
    done = vxlanfast("decap", "-", "-", stdin=ng.data)
    assert done.returncode == 0
    assert "link type USER0 (147) is not supported: 14 packets of it" in done.stderr.decode()
    assert len(frames_of(done.stdout)) == 14


# --- outputs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["name", "symlink", "hardlink", "dots", "fd"])
@pytest.mark.parametrize("verb", ["decap", "encap"])
def test_output_is_the_input(how, verb, tmp_path):
    source = tmp_path / "in.pcap"
    source.write_bytes(ETHERNET.read_bytes())
    target = {"symlink": tmp_path / "symlink", "hardlink": tmp_path / "hardlink", "dots": f"{tmp_path}/./in.pcap"}.get(
        how, source
    )
    if how == "symlink":
        target.symlink_to(source)
    elif how == "hardlink":
        target.hardlink_to(source)
    if how == "fd":
        with source.open("rb+") as file:
            command = [PYTHON, "-m", "vxlanfast", verb, str(source), "-", *READERS[verb]]
            done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, env=VERBS_ENV, check=False)
        assert_one_line(done, 1, "<stdout> is the input", str(source))
    else:
        done = vxlanfast(verb, source, target, *READERS[verb])
        assert_one_line(done, 1, f"{target} is the input {source}")
    assert source.read_bytes() == ETHERNET.read_bytes()


@pytest.mark.parametrize("threads", [1, 2])
def test_disk_full(threads, tmp_path):
    done = vxlanfast("decap", ETHERNET, "/dev/full", "--threads", threads)
    assert_one_line(done, 1, "/dev/full", "No space left on device")
    # Through a link, and with more than one write.
    (tmp_path / "full").symlink_to("/dev/full")
    done = vxlanfast("encap", INNER, tmp_path / "full", *TUNNEL, "--threads", threads)
    assert_one_line(done, 1, "full", "No space left on device")
    assert Path("/dev/full").is_char_device()


def test_disk_full_on_stdout():
    with open("/dev/full", "wb") as full:
        command = [PYTHON, "-m", "vxlanfast", "decap", str(ETHERNET), "-"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=VERBS_ENV, check=False)
    assert_one_line(done, 1, "<stdout>", "No space left on device")


@pytest.mark.parametrize("threads", [1, 3])
def test_file_size_limit(threads, tmp_path):
    """The disk is full in the middle: nothing under the final name, nothing under another."""
    big = tmp_path / "in.pcap"
    one = ETHERNET.read_bytes()
    big.write_bytes(one[:24] + one[24:] * 1000)
    folder = tmp_path / "out"
    folder.mkdir()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    command = [PYTHON, "-m", "vxlanfast", "decap", str(big), str(folder / "out.pcap"), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, env=VERBS_ENV, check=False, preexec_fn=limit)
    assert_one_line(done, 1, str(folder / "out.pcap"), "File too large")
    assert list(folder.iterdir()) == []


def test_outputs_that_cannot_be(tmp_path):
    assert_one_line(vxlanfast("decap", ETHERNET, tmp_path), 1, str(tmp_path), "directory")
    none = tmp_path / "none" / "out.pcap"
    assert_one_line(vxlanfast("decap", ETHERNET, none), 1, str(none), "there is no directory")
    assert_one_line(vxlanfast("decap", ETHERNET, tmp_path / ("x" * 300)), 1, "File name too long")


@pytest.mark.parametrize(
    "options", [("--meta", "comment", "-F", "pcap"), ("--inner", "no such thing"), ("--outer", "port 99999")]
)
def test_an_old_output_survives_a_failure(options, tmp_path):
    out = tmp_path / "out.pcap"
    out.write_bytes(b"precious")
    assert_one_line(vxlanfast("decap", ETHERNET, out, *options), 2)
    (tmp_path / "text").write_bytes(b"no capture" * 9)
    assert_one_line(vxlanfast("decap", tmp_path / "text", out), 1)
    assert out.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pcap", "text"]


# --- usage ----------------------------------------------------------------------------------------------


def changed(**values: str) -> list[str]:
    """TUNNEL with other values."""
    out = {"vni": "42", "src": "192.0.2.1", "dst": "192.0.2.2", **values}
    return [part for name, value in out.items() for part in (f"--{name.replace('_', '-')}", value)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (changed(vni="16777216"), ("--vni", "16777216", "16777215")),
        (changed(vni="-1"), ("--vni", "-1", "16777215")),
        (changed(vni="x"), ("--vni", "x")),
        (changed(vni="1-2"), ("--vni", "1-2")),
        (changed(dst="2001:db8::1"), ("192.0.2.1", "2001:db8::1", "IPv4", "IPv6")),
        (changed(src="192.0.2.256"), ("192.0.2.256",)),
        (changed(src="host.example"), ("host.example",)),
        (changed(smac="02:00"), ("02:00",)),
        (changed(dmac="02:00:00:00:00:0g"), ("02:00:00:00:00:0g",)),
        (changed(mtu="575"), ("575", "576")),
        (changed(mtu="65536"), ("65536", "65535")),
        (changed(mtu="big"), ("--mtu", "big")),
        (changed(mtu="1279", src="2001:db8::1", dst="2001:db8::2"), ("1279", "1280", "IPv6")),
        (changed(ttl="0"), ("--ttl", "0", "255")),
        (changed(ttl="256"), ("--ttl", "256", "255")),
        (changed(dscp="64"), ("--dscp", "64", "63", "inherit")),
        (changed(dscp="-1"), ("--dscp", "-1", "63")),
        (changed(sport="0"), ("--sport", "0", "65535", "hash")),
        (changed(sport="65536"), ("--sport", "65536", "65535")),
        (changed(port="0"), ("--port", "0", "65535")),
        (changed(port="65536"), ("--port", "65536", "65535")),
        (changed(udp_csum="maybe"), ("--udp-csum", "maybe", "auto")),
        (changed(over_mtu="cry"), ("--over-mtu", "cry", "fragment")),
        ([*TUNNEL, "--df", "--mtu", "1500", "--over-mtu", "fragment"], ("--df", "fragment")),
        (["--src", "192.0.2.1"], ("--vni", "--dst", "missing")),
        ([*TUNNEL, "--threads", "0"], ("--threads", "0", "256")),
        ([*TUNNEL, "--threads", "257"], ("--threads", "257", "256")),
        ([*TUNNEL, "-c", "0"], ("--count", "0", "1")),
        ([*TUNNEL, "-F", "erf"], ("--format", "erf", "pcapng")),
        ([*TUNNEL, "--inner", "udp prot 3"], ("udp prot 3",)),
        ([*TUNNEL, "--stats", "xml"], ("--stats", "xml", "json")),
        ([*TUNNEL, "--no-such-option"], ("--no-such-option",)),
        ([*TUNNEL, "one-more"], ("one-more",)),
    ],
    ids=lambda value: " ".join(value)[-30:],
)
def test_encap_usage(options, said, tmp_path):
    assert_one_line(vxlanfast("encap", INNER, tmp_path / "out", *options), 2, *said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--vni", "16777216"), ("--vni", "16777216", "16777215")),
        (("--vni", "9-5"), ("--vni", "9-5")),
        (("--vni", ""), ("--vni",)),
        (("--vni", "1,,2"), ("--vni", "not a number")),
        (("--levels", "0"), ("--levels", "0", "255", "all")),
        (("--levels", "256"), ("--levels", "256", "255", "all")),
        (("-p", "65536"), ("--port", "65536", "65535")),
        (("--other", "burn"), ("--other", "burn", "keep")),
        (("--meta", "all"), ("--meta", "all", "interface")),
        (("--outer", "host"), ("host",)),
        (("--inner", "ether proto 99999999999"), ("99999999999",)),
    ],
    ids=lambda value: " ".join(value)[-30:],
)
def test_decap_usage(options, said, tmp_path):
    assert_one_line(vxlanfast("decap", ETHERNET, tmp_path / "out", *options), 2, *said)
    assert list(tmp_path.iterdir()) == []


def test_missing_arguments():
    for verb in READERS:
        text = assert_one_line(vxlanfast(verb), 2, f"vxlanfast {verb}: ", f"(see vxlanfast {verb} --help)")
        assert "Missing argument" in text
    assert_one_line(vxlanfast("split", ETHERNET), 2, "OUT_PATTERN")
    assert_one_line(vxlanfast("evade"), 2, "evade")


# --- help -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["decap", "encap", "split", "info", "bench"])
def test_help(verb):
    """Every option of the command, by every name it has."""
    from importlib import import_module

    done = vxlanfast(verb, "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    command = import_module(f"vxlanfast.cli.{verb}").command
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert len(options) >= 2
    for option in options:
        assert option.help
        for name in option.opts:
            assert name in text, (verb, name)
    assert vxlanfast(verb, "-h").stdout == done.stdout


def test_help_of_all():
    done = vxlanfast("--help")
    assert done.returncode == 0
    for verb in ("decap", "encap", "split", "info", "bench", "Exit codes"):
        assert verb in done.stdout.decode()
    assert b"decap" in vxlanfast().stdout + vxlanfast().stderr


def test_version():
    from vxlanfast import __version__

    for option in ("-V", "--version"):
        assert vxlanfast(option).stdout.decode() == f"vxlanfast, version {__version__}\n"


def test_frames_too_long_for_a_datagram():
    """65,535 bytes of IP packet at most: longer ones are counted, the rest goes through."""
    frames = [inner_frames()[0], inner_frames()[0] + bytes(65500), inner_frames()[1]]
    done = vxlanfast("encap", "-", "-", *TUNNEL, stdin=pcap(frames))
    assert done.returncode == 0
    assert [frame[50:] for frame in frames_of(done.stdout)] == [frames[0], frames[2]]
    assert "1 encapsulated packet over the 65,535 bytes" in done.stderr.decode()
