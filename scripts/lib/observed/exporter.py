"""Stands for the exporters of the platform (kubelet, kube-state-metrics, DCGM), of which there are none here.

Their names and labels are those of the real ones; this proves the form of an expression, not that a cluster has them.
"""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Exporter:
    """Serves metrics whose values can be set while it runs."""

    def __init__(self, values):
        self.values = dict(values)
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = "".join(f"{series} {value}\n" for series, value in exporter.values.items()).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def set(self, series, value):
        self.values[series] = value

    def end(self):
        self._server.shutdown()
        self._server.server_close()
