"""Stands for what is not there: the exporters of the platform (kubelet, kube-state-metrics, DCGM), and a receiver of usage.

Names and labels of the metrics are those of the real ones; this proves the form of an expression, not that a cluster has
them.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Answers each request with what `answer` gives."""

    def __init__(self, port, answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = answer().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class Exporter(Server):
    """Serves metrics whose values can be set while it runs."""

    def __init__(self, values):
        self.values = dict(values)
        super().__init__(0, lambda: "".join(f"{series} {value}\n" for series, value in list(self.values.items())))


class Receiver(Server):
    """Takes whatever is posted to it."""

    def __init__(self, port):
        super().__init__(port, lambda: "")
