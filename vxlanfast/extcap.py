"""Wireshark's extcap interface (extcap(4)): what it asks, and the answers in its ``{key=value}`` lines."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vxlanfast.errors import OutputError, SpecError

__all__ = [
    "UDP",
    "captured_interface",
    "config",
    "dlts",
    "install",
    "interfaces",
    "personal_folder",
    "sentence",
    "uninstall",
]

#: The interface that is a UDP receiver; one that captures at network interface X is called PREFIX + X.
UDP = "vxlan"
PREFIX = "vxlan-"
SCRIPT = "vxlanfast-extcap"
MARK = "# Written by `vxlanfast extcap --install`; `vxlanfast extcap --uninstall` removes it."


def sentence(word: str, **values: object) -> str:
    """One line: ``word {key=value}{key=value}``. Braces and line ends in a value would be taken for the grammar's."""
    clean = str.maketrans({"{": "(", "}": ")", "\n": " ", "\r": " "})
    return f"{word} " + "".join(f"{{{key}={str(value).translate(clean)}}}" for key, value in values.items())


def interfaces(version: str) -> list[str]:
    """``--extcap-interfaces``: the receiver, and one for each network interface."""
    out = [sentence("extcap", version=version, help="https://www.rfc-editor.org/rfc/rfc7348", display="vxlanfast")]
    out.append(sentence("interface", value=UDP, display="VXLAN and GENEVE mirror receiver (UDP)"))
    for _, name in socket.if_nameindex():
        out.append(sentence("interface", value=PREFIX + name, display=f"VXLAN and GENEVE at {name}, decapsulated"))
    return out


def captured_interface(name: str) -> str | None:
    """The network interface that an extcap interface captures at; None: the UDP receiver. SpecError: neither."""
    if name == UDP:
        return None
    if name.startswith(PREFIX) and len(name) > len(PREFIX):
        return name[len(PREFIX) :]
    raise SpecError(f"extcap interface {name!r}: {UDP}, or {PREFIX} and the name of a network interface")


def dlts(name: str) -> list[str]:
    """``--extcap-dlts``."""
    captured_interface(name)
    return [sentence("dlt", number=1, name="EN10MB", display="Ethernet")]


def config(name: str) -> list[str]:
    """``--extcap-config``: the options of an interface, which come back as written here."""
    interface = captured_interface(name)
    ports = "4789" if interface is None else "4789,8472"
    ports_only = "^ *[0-9]+( *, *[0-9]+)* *$"
    out = [
        _arg(
            0,
            "--port",
            "VXLAN ports",
            "string",
            default=ports,
            tooltip="UDP ports of VXLAN, separated by commas",
            validation=ports_only,
        ),
        _arg(
            1,
            "--geneve-port",
            "GENEVE ports",
            "string",
            default="6081",
            tooltip="UDP ports of GENEVE; 0 for none",
            validation=ports_only,
        ),
        _arg(2, "--vni", "VNIs", "string", tooltip="Keep these alone, such as 1,5-9; empty for all"),
        _arg(
            3,
            "--levels",
            "Levels",
            "string",
            default="1",
            tooltip="Nested headers to take off at most: a number, or all",
        ),
        _arg(
            4, "--meta", "Outer headers", "selector", tooltip="Keep VNI and outer addresses as a comment of each packet"
        ),
        sentence("value", arg=4, value="comment", display="As a comment of each packet", default="true"),
        sentence("value", arg=4, value="none", display="Not kept", default="false"),
    ]
    if interface is None:
        out.append(_arg(5, "--bind", "Address", "string", tooltip="Listen at this address alone; empty for all"))
    return out


def _arg(number: int, call: str, display: str, kind: str, **rest: str) -> str:
    validation = rest.pop("validation", None)
    line = sentence("arg", number=number, call=call, display=display, type=kind, **rest)
    # As it is: a pattern must do without braces, since Wireshark takes the first for the value's end.
    return line + (f"{{validation={validation}}}" if validation else "")


def personal_folder() -> Path:
    """Where Wireshark looks for a user's extcap programs: asked of tshark or wireshark, where there is one."""
    if os.environ.get("WIRESHARK_EXTCAP_DIR"):
        return Path(os.environ["WIRESHARK_EXTCAP_DIR"])
    for program in ("tshark", "wireshark"):
        path = shutil.which(program)
        if path is None:
            continue
        try:
            run = subprocess.run([path, "-G", "folders"], capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.SubprocessError):
            continue
        found = _folder_in(run.stdout)
        if found is not None:
            return found
    # Since 3.0 programs have their place under lib; the configuration folder was it before.
    return Path.home() / ".local" / "lib" / "wireshark" / "extcap"


def _folder_in(text: str) -> Path | None:
    """The personal extcap folder in what ``tshark -G folders`` says; of versions that have one alone (4.0), that."""
    single = None
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if not colon or "extcap" not in name.lower() or not value.strip():
            continue
        if "personal" in name.lower():
            return Path(value.strip())
        if "global" not in name.lower():
            single = Path(value.strip())
    return single


def install(folder: Path | None = None, *, python: str = sys.executable) -> Path:
    """Put an executable that is ``vxlanfast extcap`` into ``folder`` (None: Wireshark's personal one): its path."""
    folder = personal_folder() if folder is None else folder
    path = folder / SCRIPT
    places = os.environ.get("PYTHONPATH")
    quoted = _quoted(python)
    text = f"#!/bin/sh\n{MARK}\n"
    if places:
        text += f"export PYTHONPATH={_quoted(places)}\n"
    text += f'exec {quoted} -m vxlanfast extcap "$@"\n'
    try:
        if path.exists() and not _is_ours(path):
            raise OutputError(f"{path}: there is another program of that name; remove it first", path=str(path))
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    except OutputError:
        raise
    except OSError as error:
        hint = (
            "; run it as root, or name a DIR and set WIRESHARK_EXTCAP_DIR to it for Wireshark"
            if isinstance(error, PermissionError)
            else ""
        )
        raise OutputError(f"{path}: {error.strerror}{hint}", errno=error.errno, path=str(path)) from error
    return path


def uninstall(folder: Path | None = None) -> Path | None:
    """Remove what ``install`` put there: its path, None where there is nothing. OutputError: not ours."""
    path = (personal_folder() if folder is None else folder) / SCRIPT
    if not path.exists():
        return None
    if not _is_ours(path):
        raise OutputError(f"{path}: not written by vxlanfast, so not removed", path=str(path))
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}", errno=error.errno, path=str(path)) from error
    return path


def _is_ours(path: Path) -> bool:
    try:
        return MARK in path.read_text(errors="replace")
    except OSError:
        return False


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def numbers(text: str, what: str) -> list[int]:
    """``4789, 8472`` as numbers; 0 and nothing are left out. SpecError names what is no port."""
    out = []
    for part in (piece.strip() for piece in text.split(",")):
        if not part:
            continue
        if not part.isascii() or not part.isdigit() or int(part) > 65535:
            raise SpecError(f"{what} {part!r}: 1 to 65535, separated by commas")
        if int(part):
            out.append(int(part))
    return out


def captures(lines: Sequence[str]) -> list[str]:
    """The names of interfaces in the lines of an answer: for who tests it."""
    return [line.split("{value=", 1)[1].split("}", 1)[0] for line in lines if line.startswith("interface ")]
