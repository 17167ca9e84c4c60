"""Runs in a namespace or in a machine of its own: TCP and UDP whose every byte is looked at; servers that say a name.

usage: exchange.py echo ADDRESS PORT          every TCP connection and datagram gets its bytes back
       exchange.py say NAME ADDRESS PORT      every TCP connection is told the name, and is closed
       exchange.py send ADDRESS PORT BYTES    a seeded stream there and back, compared, both ways at once
       exchange.py datagrams ADDRESS PORT SIZE...     one of each size there and back, asked again if it is lost
       exchange.py ask ADDRESS PORT TIMES     what so many connections, one after the other, were told, a line each
       exchange.py pings ADDRESS LEAST MOST   an echo request of every size of data, answers compared (root)
       exchange.py pour ADDRESS PORT SECONDS  a seeded stream there and back, both ways at once, for so long
       exchange.py shower ADDRESS PORT SECONDS SIZE   datagrams there and back for so long: how many, how many wrong
       exchange.py utter DEVICE TO FROM NUMBER...     numbered frames (tests/ears.py), from that MAC to that one (root)
       exchange.py hear DEVICE LAST           which of them come in, a line each, until LAST has (root)

Nothing here but the standard library: it may be run by another machine's Python.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
import sys
import threading
import time

#: Seconds for a connection to be made, and for a silent one.
CONNECT_S, SILENT_S = 30.0, 60.0
CHUNK = 1 << 16
#: Datagrams of a shower that nobody has answered yet.
ON_THEIR_WAY = 16
ETH_P_TEST, PACKET_OUTGOING = 0x88B5, 4
IP_MTU_DISCOVER, IP_PMTUDISC_DO, SO_RCVBUFFORCE = 10, 2, 33  # not in the socket module of Python 3.11


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def connected(address: str, port: int) -> socket.socket:
    """As soon as somebody listens there."""
    end = time.monotonic() + CONNECT_S
    while True:
        try:
            return socket.create_connection((address, port), timeout=5)
        except OSError as error:
            if time.monotonic() > end:
                raise SystemExit(f"{address} port {port}: {error}") from None
            time.sleep(0.2)


def echo(address: str, port: int) -> None:
    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(CHUNK):
                connection.sendall(data)

    def datagrams() -> None:
        with socket.socket(family(address), socket.SOCK_DGRAM) as sock:
            sock.bind((address, port))
            while True:
                sock.sendto(*sock.recvfrom(CHUNK))

    threading.Thread(target=datagrams, daemon=True).start()
    with socket.create_server((address, port), family=family(address)) as listener:
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def say(name: str, address: str, port: int) -> None:
    with socket.create_server((address, port), family=family(address), backlog=64) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(name.encode() + b"\n")


def send(address: str, port: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    with connected(address, port) as sock:
        sock.settimeout(SILENT_S)

        def write() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        back = bytearray()
        while more := sock.recv(CHUNK):
            back += more
        writer.join()
    if hashlib.sha256(back).digest() != hashlib.sha256(data).digest():
        wrong = next((k for k, (a, b) in enumerate(zip(data, back, strict=False)) if a != b), len(back))
        raise SystemExit(f"{len(back)} of {size} bytes came back, and number {wrong} is another one")
    print(f"{size} bytes there and back")


def datagrams(address: str, port: int, sizes: list[int]) -> None:
    with socket.socket(family(address), socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((address, port))
        for size in sizes:
            data = random.Random(size).randbytes(size)
            for _ in range(10):
                try:
                    sock.send(data)
                    if sock.recv(CHUNK) == data:
                        break
                except (TimeoutError, ConnectionRefusedError):
                    time.sleep(0.1)
            else:
                raise SystemExit(f"{size} bytes did not come back")
    print(f"{len(sizes)} sizes there and back")


def ask(address: str, port: int, times: int) -> None:
    for _ in range(times):
        with connected(address, port) as sock:
            sock.settimeout(SILENT_S)
            said = b""
            while more := sock.recv(CHUNK):
                said += more
        print(said.decode().strip(), flush=True)


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pings(address: str, least: int, most: int) -> None:
    v6 = ":" in address
    protocol = socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP
    with socket.socket(family(address), socket.SOCK_RAW, protocol) as sock:
        if not v6:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.connect((address, 0))
        for size in range(least, most + 1):
            data = random.Random(size).randbytes(size)
            rest = struct.pack("!HH", os.getpid() & 0xFFFF, size) + data
            head = b"\x80\0\0\0" if v6 else struct.pack("!HH", 0x800, checksum(b"\x08\0\0\0" + rest))
            for _ in range(5):
                sock.send(head + rest)
                if echoed(sock, rest, v6):
                    break
            else:
                raise SystemExit(f"{size} bytes did not come back")
    print(f"{most - least + 1} sizes there and back")


def echoed(sock: socket.socket, rest: bytes, v6: bool) -> bool:
    """Whether an answer comes with these bytes within two seconds."""
    end = time.monotonic() + 2
    while (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            packet = sock.recv(CHUNK)
        except TimeoutError:
            return False
        message = packet if v6 else packet[(packet[0] & 15) * 4 :]
        if message[:1] == (b"\x81" if v6 else b"\0") and message[4:] == rest:
            return True
    return False


def pour(address: str, port: int, seconds: float) -> None:
    sent, back = hashlib.sha256(), hashlib.sha256()
    went = came = 0
    with connected(address, port) as sock:
        sock.settimeout(SILENT_S)

        def write() -> None:
            nonlocal went
            source, end = random.Random(port), time.monotonic() + seconds
            while time.monotonic() < end:
                data = source.randbytes(CHUNK)
                sock.sendall(data)
                sent.update(data)
                went += len(data)
            sock.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        while data := sock.recv(CHUNK):
            back.update(data)
            came += len(data)
        writer.join()
    if sent.digest() != back.digest():
        raise SystemExit(f"{came} of {went} bytes came back, and not the same")
    print(f"{came} bytes there and back")


def shower(address: str, port: int, seconds: float, size: int) -> None:
    """Some are on their way at a time; those that are not back in half a second count as lost."""
    sent = back = wrong = 0
    waiting: set[int] = set()
    end = time.monotonic() + seconds
    with socket.socket(family(address), socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.connect((address, port))
        while time.monotonic() < end:
            while len(waiting) < ON_THEIR_WAY:
                sock.send(struct.pack("!I", sent) + random.Random(sent).randbytes(size - 4))
                waiting.add(sent)
                sent += 1
            try:
                data = sock.recv(CHUNK)
            except (TimeoutError, ConnectionRefusedError):
                waiting.clear()
                continue
            [number] = struct.unpack_from("!I", data)
            waiting.discard(number)
            back += 1
            wrong += data[4:] != random.Random(number).randbytes(size - 4)
    print(f"{sent} sent, {back} back, {wrong} wrong")


def frames(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_TEST))
    sock.bind((device, ETH_P_TEST))
    return sock


def utter(device: str, to: str, source: str, numbers: list[int]) -> None:
    with frames(device) as sock:
        for number in numbers:
            sock.send(bytes.fromhex((to + source).replace(":", "")) + struct.pack("!HI42x", ETH_P_TEST, number))


def hear(device: str, last: int) -> None:
    number = -1
    with frames(device) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 23)
        sock.settimeout(SILENT_S)
        print("listening", flush=True)
        while number != last:
            frame, origin = sock.recvfrom(CHUNK)
            if origin[2] != PACKET_OUTGOING:
                [number] = struct.unpack_from("!I", frame, 14)
                print(number, flush=True)


def main(verb: str, *arguments: str) -> None:
    match verb, *arguments:
        case "echo", address, port:
            echo(address, int(port))
        case "say", name, address, port:
            say(name, address, int(port))
        case "send", address, port, size:
            send(address, int(port), int(size))
        case "datagrams", address, port, *sizes:
            datagrams(address, int(port), list(map(int, sizes)))
        case "ask", address, port, times:
            ask(address, int(port), int(times))
        case "pings", address, least, most:
            pings(address, int(least), int(most))
        case "pour", address, port, seconds:
            pour(address, int(port), float(seconds))
        case "shower", address, port, seconds, size:
            shower(address, int(port), float(seconds), int(size))
        case "utter", device, to, source, *numbers:
            utter(device, to, source, list(map(int, numbers)))
        case "hear", device, last:
            hear(device, int(last))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
