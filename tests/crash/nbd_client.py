# SPDX-License-Identifier: MIT
"""A small NBD client that keeps many requests in flight and says which ones were answered."""
import select
import socket
import struct

READ, WRITE, FLUSH, TRIM, ZEROES = 0, 1, 3, 4, 6
FUA = 1
OPTION_GO = 7


class Gone(Exception):
    """The server is not there any more."""


class Client:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.pending = {}  # cookie: (what the caller gave, bytes to read)
        self.cookie = 0
        magic, option_magic, _ = struct.unpack(">8s8sH", self._exactly(18))
        assert magic == b"NBDMAGIC" and option_magic == b"IHAVEOPT"
        self.sock.sendall(struct.pack(">I", 1))  # fixed newstyle
        self.sock.sendall(struct.pack(">8sIIIH", b"IHAVEOPT", OPTION_GO, 6, 0, 0))
        while True:
            _, _, kind, length = struct.unpack(">QIII", self._exactly(20))
            data = self._exactly(length)
            if kind == 3 and struct.unpack(">H", data[:2])[0] == 0:
                self.size = struct.unpack(">Q", data[2:10])[0]
            if kind == 1:
                return
            assert kind < 1 << 31, "the server refuses"

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            try:
                more = self.sock.recv(count - len(data))
            except ConnectionError as err:
                raise Gone from err
            if not more:
                raise Gone
            data += more
        return data

    def send(self, command, offset, length, tag, data=b"", flags=0):
        self.cookie += 1
        self.pending[self.cookie] = (tag, length if command == READ else 0)
        head = struct.pack(">IHHQQI", 0x25609513, flags, command, self.cookie, offset, length)
        try:
            self.sock.sendall(head + data)
        except OSError as err:
            raise Gone from err

    def answers(self, wait):
        """(tag, error, data) of all that is there, after a wait of so long for the first one."""
        while self.pending and select.select([self.sock], [], [], wait)[0]:
            wait = 0
            magic, error, cookie = struct.unpack(">IIQ", self._exactly(16))
            assert magic == 0x67446698, hex(magic)
            tag, length = self.pending.pop(cookie)
            yield tag, error, self._exactly(length) if error == 0 else b""

    def read(self, offset, length):
        self.send(READ, offset, length, None)
        for _, error, data in self.answers(60):
            assert error == 0
            return data
        raise Gone

    def close(self):
        self.sock.close()
