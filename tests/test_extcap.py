"""The extcap interface, driven as Wireshark drives it: by its four questions, and by tshark."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import (
    PYTHON,
    TSHARK,
    VERBS_ENV,
    assert_one_line,
    blocks,
    frames_of,
    free_port,
    tshark,
    until,
    vxlanfast,
)
from tests.test_recv import INNER, VNI_42, send
from vxlanfast import extcap
from vxlanfast.errors import OutputError, SpecError

#: As Wireshark's extcap_parser takes a line apart.
LINE = re.compile(r"^(extcap|interface|dlt|arg|value) (\{[a-z]+=[^{}]*\})+$")
GROUP = re.compile(r"\{([a-z]+)=([^{}]*)\}")
FRAME = INNER + bytes(60)


def asked(*arguments: object) -> list[tuple[str, dict[str, str]]]:
    run = vxlanfast("extcap", *arguments)
    assert run.returncode == 0 and run.stderr == b"", run.stderr
    out = []
    for line in run.stdout.decode().splitlines():
        assert LINE.match(line), line
        out.append((line.split(" ")[0], dict(GROUP.findall(line))))
    return out


def test_interfaces() -> None:
    lines = asked("--extcap-interfaces", "--extcap-version=4.0")
    assert lines[0][0] == "extcap" and lines[0][1]["version"]
    names = [groups["value"] for word, groups in lines if word == "interface"]
    assert names[0] == "vxlan" and "vxlan-lo" in names
    for name in ("vxlan", "vxlan-lo"):
        assert asked("--extcap-interface", name, "--extcap-dlts") == [
            ("dlt", {"number": "1", "name": "EN10MB", "display": "Ethernet"})
        ]


def test_options() -> None:
    """Numbered from 0, each a call of ours; a selector's values belong to it."""
    for name, bind in (("vxlan", True), ("vxlan-lo", False)):
        lines = asked("--extcap-interface", name, "--extcap-config")
        arguments = [groups for word, groups in lines if word == "arg"]
        assert [int(groups["number"]) for groups in arguments] == list(range(len(arguments)))
        calls = {groups["call"]: groups for groups in arguments}
        assert ("--bind" in calls) == bind
        assert calls["--port"]["default"].startswith("4789")
        for groups in arguments:
            assert {"display", "type"} <= groups.keys()
            if "validation" in groups:
                assert re.match(groups["validation"], groups["default"])
        meta = calls["--meta"]["number"]
        assert [(g["arg"], g["value"]) for word, g in lines if word == "value"] == [(meta, "comment"), (meta, "none")]


def test_braces_do_not_break_the_grammar() -> None:
    assert extcap.sentence("arg", display="a{b}c\nd") == "arg {display=a(b)c d}"


def test_filters_are_judged() -> None:
    """What is said on standard output is what is wrong with the filter."""
    fine = vxlanfast("extcap", "--extcap-interface", "vxlan", "--extcap-capture-filter", "tcp port 80")
    assert (fine.returncode, fine.stdout) == (0, b"")
    wrong = vxlanfast("extcap", "--extcap-interface", "vxlan", "--extcap-capture-filter", "tcp prt 80")
    assert wrong.returncode == 0 and b"syntax error" in wrong.stdout


def test_capture_into_a_fifo(tmp_path: Path) -> None:
    fifo, port = tmp_path / "fifo", free_port()
    os.mkfifo(fifo)
    run = subprocess.Popen(
        [PYTHON, "-m", "vxlanfast", "extcap", "--capture", "--extcap-interface", "vxlan", "--fifo", str(fifo),
         "--port", f" {port}", "--geneve-port", "0", "--bind", "127.0.0.1", "--vni", "", "--extcap-capture-filter", "",
         "--meta", "comment", "--extcap-version=4.0"],
        env=VERBS_ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        with open(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader:
            # The beginning comes before any packet.
            until("the program to write", lambda: run.poll() is not None or select.select([reader], [], [], 0)[0])
            assert run.poll() is None
            os.set_blocking(reader.fileno(), True)
            data = reader.read(65536)
            send(port, VNI_42 + FRAME)
            while FRAME not in data:
                piece = reader.read(65536)
                assert piece
                data += piece
            run.send_signal(signal.SIGTERM)
            while piece := reader.read(65536):
                data += piece
        said = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait(60)
    assert (run.returncode, said) == (0, (b"", b""))
    assert frames_of(data) == [FRAME]
    comments = [value for block in blocks(data) if block.kind == 6 for code, value in block.options() if code == 1]
    assert len(comments) == 1 and re.match(rb"vxlan vni 42, 127\.0\.0\.1:\d+ > 127\.0\.0\.1:%d$" % port, comments[0])


def test_what_goes_wrong_is_one_line(tmp_path: Path) -> None:
    vxlan = ("--extcap-interface", "vxlan")
    for code, said, arguments in (
        (2, "'eth0': vxlan, or vxlan-", ("--extcap-interface", "eth0", "--extcap-dlts")),
        (2, "--extcap-interfaces", ()),
        (2, "--capture is wanted", vxlan),
        (2, "--fifo", (*vxlan, "--capture")),
        (2, "'x': 1 to 65535", (*vxlan, "--capture", "--fifo", tmp_path / "f", "--port", "x")),
        (1, "nosuch: no such interface", ("--extcap-interface", "vxlan-nosuch", "--capture", "--fifo", tmp_path / "f")),
    ):
        assert_one_line(vxlanfast("extcap", *arguments), code, said)


def test_installation(tmp_path: Path) -> None:
    folder = tmp_path / "some where"
    run = vxlanfast("extcap", "--install", folder)
    path = folder / "vxlanfast-extcap"
    assert run.returncode == 0 and str(path) in run.stdout.decode()
    assert os.access(path, os.X_OK)
    assert extcap.install(folder) == path  # again: the newer one
    done = subprocess.run(
        [path, "--extcap-interfaces"], env=VERBS_ENV, capture_output=True, text=True, timeout=60, check=True
    )
    assert "interface {value=vxlan}" in done.stdout
    assert str(path) in vxlanfast("extcap", "--uninstall", folder).stdout.decode()
    assert not path.exists()
    assert vxlanfast("extcap", "--uninstall", folder).stdout == b"nothing to remove\n"
    path.write_text("#!/bin/sh\n")
    for act in (extcap.install, extcap.uninstall):
        with pytest.raises(OutputError, match="vxlanfast-extcap: "):
            act(folder)
    (tmp_path / "file").touch()
    assert_one_line(vxlanfast("extcap", "--install", tmp_path / "file"), 1, str(tmp_path / "file"))
    assert_one_line(vxlanfast("extcap", "--install", "--dir", folder), 2, "--dir", "a DIR, and nothing else")


def test_the_personal_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    old = "Personal Plugins:\t/p\nExtcap path:         \t/usr/lib/wireshark/extcap\n"
    new = (
        "Global Extcap path:  \t/usr/lib/wireshark/extcap\nPersonal Extcap path:\t/home/x/.local/lib/wireshark/extcap\n"
    )
    assert extcap._folder_in(old) == Path("/usr/lib/wireshark/extcap")
    assert extcap._folder_in(new) == Path("/home/x/.local/lib/wireshark/extcap")
    assert extcap._folder_in("") is None
    monkeypatch.setenv("WIRESHARK_EXTCAP_DIR", "/x/y")
    assert extcap.personal_folder() == Path("/x/y")
    monkeypatch.delenv("WIRESHARK_EXTCAP_DIR")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("HOME", "/home/x")
    assert extcap.personal_folder() == Path("/home/x/.local/lib/wireshark/extcap")


def test_numbers() -> None:
    assert extcap.numbers("4789, 8472,,0", "--port") == [4789, 8472]
    for text in ("x", "1,70000", "-1", "²"):
        with pytest.raises(SpecError, match="1 to 65535"):
            extcap.numbers(text, "--port")


@pytest.mark.tshark
@pytest.mark.root
def test_tshark_lists_configures_and_captures(tmp_path: Path) -> None:
    """tshark finds the program in its folder (ours stands in for it in a mount namespace of the test's own)."""
    if TSHARK is None or os.geteuid() != 0:
        pytest.skip("needs tshark, and root for a mount namespace")
    if "LD_PRELOAD" in os.environ:
        pytest.skip("tshark runs without the preloaded sanitizers, and so would what it starts")
    home, folder, port = tmp_path / "home", tmp_path / "extcap", free_port()
    home.mkdir()
    extcap.install(folder)
    env = {**VERBS_ENV, "HOME": str(home)}
    env.pop("WIRESHARK_EXTCAP_DIR", None)
    said = subprocess.run(
        [TSHARK, "-G", "folders"], env=env, capture_output=True, text=True, timeout=60, check=False
    ).stdout
    place = extcap._folder_in(said)
    if place is None:
        pytest.skip("this tshark names no extcap folder")
    if not place.is_dir():
        if home not in place.parents:
            pytest.skip(f"there is no folder {place}")
        place.mkdir(parents=True)
    script = f'mount --bind "{folder}" "{place}" || exit 77; exec "$@"'
    inside = ["unshare", "--mount", "sh", "-c", script, "sh", TSHARK]
    listed = subprocess.run([*inside, "-D"], env=env, capture_output=True, text=True, timeout=60, check=False)
    if listed.returncode == 77 or "unshare" in listed.stderr:
        pytest.skip(f"no mount namespaces here: {listed.stderr.strip()}")
    assert re.search(r"^\d+\. vxlan \(VXLAN and GENEVE mirror receiver \(UDP\)\)$", listed.stdout, re.MULTILINE), listed
    assert "vxlan-lo" in listed.stdout
    out = tmp_path / "out.pcapng"
    options = ("port", port), ("geneveport", 0), ("bind", "127.0.0.1")
    run = subprocess.Popen(
        [*inside, "-i", "vxlan", *(part for key, value in options for part in ("-o", f"extcap.vxlan.{key}:{value}")),
         "-c", "3", "-w", str(out)],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:

        def sent() -> bool:
            send(port, VNI_42 + FRAME)
            time.sleep(0.2)
            return run.poll() is not None

        until("tshark to have its three packets", sent)
        _, errors = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait(60)
    assert run.returncode == 0, errors
    assert frames_of(out) == [FRAME] * 3
    assert tshark(out, "frame.comment")[0][0].startswith("vxlan vni 42, 127.0.0.1:")
