"""Requests to a gateway as clients send them, and what is left of them in a test: a status, or a stream to read."""

import contextlib
import http.client
import json
import ssl

TIMEOUT = 120


class Client:
    """Asks one address, with one key; each request has a connection of its own."""

    def __init__(self, address, key=None, certificate=None):
        self.address, self.key = address, key
        self.tls = ssl.create_default_context(cafile=certificate) if certificate else None

    def connect(self):
        host, port = self.address.rsplit(":", 1)
        if self.tls:
            return http.client.HTTPSConnection(host, int(port), timeout=TIMEOUT, context=self.tls)
        return http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)

    def send(self, connection, path, body=None, headers=(), method=None):
        """Sends a request, and reads nothing yet."""
        known = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        data = None if body is None else json.dumps(body).encode()
        connection.request(method or ("POST" if data else "GET"), path, data, known | dict(headers))

    @contextlib.contextmanager
    def sent(self, path, body):
        """Has sent a request whose answer nobody reads; leaves at the end."""
        with contextlib.closing(self.connect()) as connection:
            self.send(connection, path, body)
            yield

    def ask(self, path, body=None, headers=(), method=None):
        """Status and text; 0 and nothing where the server is gone or the answer breaks off."""
        with contextlib.closing(self.connect()) as connection:
            try:
                self.send(connection, path, body, headers, method)
                response = connection.getresponse()
                return response.status, response.read().decode(errors="replace")
            except (OSError, http.client.HTTPException):
                return 0, ""

    def leave(self, path, body, after):
        """Reads a stream until a line that begins like `after`, and leaves; gives whether such a line came."""
        with contextlib.closing(self.connect()) as connection:
            try:
                self.send(connection, path, body)
                return any(line.startswith(after) for line in connection.getresponse())
            except (OSError, http.client.HTTPException):
                return False


def chat(max_tokens, **further):
    """A chat that ends at its output cap only, on a real llama-server and on a simulated one."""
    messages = [{"role": "user", "content": "Tell me about rivers."}]
    return {"model": "test-model", "messages": messages, "max_tokens": max_tokens, "ignore_eos": True} | further
