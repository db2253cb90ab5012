"""The cluster's DNS: a Service's name stands for the addresses of its pods that are ready.

Takes a function that knows the addresses; answers on port 53 until it is closed.
"""

import socket
import struct
import threading

A, NAME_ERROR = 1, 3
TTL = 5  # as CoreDNS has it


class Dns:
    def __init__(self, addresses):
        """`addresses(name)` is a list, or None where the name does not exist."""
        self.addresses = addresses
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 53))
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            query, client = self.socket.recvfrom(1500)
            if not query:
                return
            self.socket.sendto(self.answer(query), client)

    def close(self):
        """Ends the thread by an empty message: a socket that is closed under recvfrom stays open."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"", self.socket.getsockname())
        self.thread.join()
        self.socket.close()

    def answer(self, query):
        name, end = read_name(query)
        kind, = struct.unpack_from(">H", query, end)
        # Like CoreDNS: a headless Service without a ready pod is a name that does not exist.
        found = self.addresses(name) or None
        records = [socket.inet_aton(one) for one in found or [] if kind == A]
        flags = 0x8580 | (NAME_ERROR if found is None else 0)
        head = query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0)
        body = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", A, 1, TTL, 4) + one for one in records)
        return head + query[12:end + 4] + body


def read_name(query):
    labels, place = [], 12
    while query[place]:
        labels.append(query[place + 1:place + 1 + query[place]].decode("ascii", "replace").lower())
        place += 1 + query[place]
    return ".".join(labels), place + 1
