# SPDX-License-Identifier: MIT
"""From the start of a server to its first answer, and what it costs in memory when idle and with a
million pieces in use."""
import os
import socket
import statistics
import struct
import subprocess
import time

import servers


def receive(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise RuntimeError("the server has closed")
        data += more
    return data


def connect(path):
    """An NBD client in a few lines: the next thing on the socket is a request."""
    deadline = time.monotonic() + 10
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
            break
        except OSError:
            connection.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.0002)
    receive(connection, 18)
    connection.sendall(struct.pack(">IQII", 3, 0x49484156454F5054, 7, 6) + bytes(6))
    while True:
        _, _, kind, length = struct.unpack(">QIII", receive(connection, 20))
        receive(connection, length)
        if kind == 1:
            return connection


def request(connection, command, offset, length, data=b""):
    connection.sendall(struct.pack(">IHHQQI", 0x25609513, 0, command, 1, offset, length) + data)
    _, error, _ = struct.unpack(">IIQ", receive(connection, 16))
    return receive(connection, length) if command == 0 and error == 0 else error


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


def first_answers(folder, image, rounds):
    """Milliseconds from exec to the first sector read, ours and nbdkit's in turn."""
    ours, theirs = [], []
    for number in range(rounds):
        start = time.monotonic()
        server = servers.Provium("life", ["--image", image])
        with connect(server.uri.split("socket=")[1]) as connection:
            request(connection, 0, 0, 512)
        ours.append((time.monotonic() - start) * 1e3)
        server.stop()
        path = os.path.join(folder, f"life{number}.sock")
        start = time.monotonic()
        peer = subprocess.Popen(["nbdkit", "-f", "-U", path, "file", image])
        with connect(path) as connection:
            request(connection, 0, 0, 512)
        theirs.append((time.monotonic() - start) * 1e3)
        peer.terminate()
        peer.wait()
    return ours, theirs


def memory_with_pieces(folder, pieces):
    """Resident KiB of a server whose overlay holds every second block of 4 KiB."""
    base = os.path.join(folder, "base")
    with open(base, "wb") as image:
        image.truncate(pieces * 8192)
    overlay = os.path.join(folder, "pieces")
    server = servers.Provium("life", ["--image", base, "--layer",
                                      f"cow:file={overlay},block=4096"])
    try:
        with connect(server.uri.split("socket=")[1]) as connection:
            block = b"x" * 4096
            for first in range(0, pieces, 64):
                message = b"".join(
                    struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, n * 8192, 4096) + block
                    for n in range(first, min(first + 64, pieces)))
                connection.sendall(message)
                receive(connection, 16 * min(64, pieces - first))
        return resident_kib(server.pid)
    finally:
        server.stop()
        for path in (base, overlay):
            os.unlink(path)


def measure(folder, rounds, pieces=1_000_000):
    image = os.path.join(folder, "life.img")
    with open(image, "wb") as file:
        file.truncate(1 << 30)
    server = servers.Provium("life", ["--image", image])
    time.sleep(0.2)
    idle = resident_kib(server.pid)
    server.stop()
    ours, theirs = first_answers(folder, image, rounds * 3)
    result = {"idle_kib": idle, "pieces": pieces, "pieces_kib": memory_with_pieces(folder, pieces),
              "first_answer_ms": statistics.median(ours),
              "nbdkit_first_answer_ms": statistics.median(theirs)}
    print(f"start to first answer  {result['first_answer_ms']:.2f} ms   nbdkit "
          f"{result['nbdkit_first_answer_ms']:.2f} ms")
    print(f"resident, idle {idle / 1024:.1f} MiB; with {pieces} pieces of an overlay in use "
          f"{result['pieces_kib'] / 1024:.1f} MiB")
    return result
