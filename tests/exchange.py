"""Runs in a namespace or in a machine of its own: TCP and UDP whose every byte is looked at; servers that say a name.

usage: exchange.py echo ADDRESS PORT          every TCP connection and datagram gets its bytes back
       exchange.py say NAME ADDRESS PORT      every TCP connection is told the name, and is closed
       exchange.py send ADDRESS PORT BYTES    a seeded stream there and back, compared, both ways at once
       exchange.py datagrams ADDRESS PORT SIZE...     one of each size there and back, asked again if it is lost
       exchange.py ask ADDRESS PORT TIMES     what so many connections, one after the other, were told, a line each

Nothing here but the standard library: it may be run by another machine's Python.
"""

from __future__ import annotations

import hashlib
import random
import socket
import sys
import threading
import time

#: Seconds for a connection to be made, and for a silent one.
CONNECT_S, SILENT_S = 30.0, 60.0
CHUNK = 1 << 16


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
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
