"""Stands for what is not there: the exporters of the platform (kubelet, kube-state-metrics, DCGM), a receiver of usage.

Names and labels of the metrics are those of the real ones; this proves the form of an expression, not that a cluster
has them.
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

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_):
                """Who asked has left: nobody needs to know."""

        self._server = Quiet(("127.0.0.1", port), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
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


def labelled(name, **labels):
    """A series as text."""
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in labels.items()) + "}"


def platform_of(namespace):
    """What a cluster tells of a namespace: a GPU, the gateway's volume, how often pods were restarted."""
    gpu = {"gpu": 0, "Hostname": "node", "exported_namespace": namespace, "exported_pod": "kimi-k2-llamacpp-0"}
    claim = {"namespace": namespace, "persistentvolumeclaim": "kimi-k2-gateway-data"}
    container = {"namespace": namespace, "pod": "kimi-k2-llamacpp-0", "container": "llama-server"}
    return {
        **{labelled(f"DCGM_FI_DEV_{name}", **gpu): value for name, value in (
            ("GPU_UTIL", 90), ("FB_USED", 12000), ("GPU_TEMP", 70), ("POWER_USAGE", 65), ("XID_ERRORS", 0))},
        labelled("kubelet_volume_stats_capacity_bytes", **claim): 1e10,
        labelled("kubelet_volume_stats_available_bytes", **claim): 5e9,
        labelled("kube_pod_container_status_restarts_total", **container): 0,
    }
