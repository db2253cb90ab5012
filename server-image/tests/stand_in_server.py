"""Answers like a llama-server that is told what to say: stand_in_server.py PORT [NAME=VALUE...]

  health=503       status code of /health (200)
  metrics=401      status code of /metrics (200)
  processing=2,1   llamacpp:requests_processing, one number for each answer; the last one stays (0)
  deferred=1,0     llamacpp:requests_deferred, likewise (0)
  prefix=other:    begins the names otherwise (llamacpp:)
  silent=1         takes /metrics and never answers

Each request is a line on stdout: seconds, path, key. It says "ready" first.
"""

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

settings = dict(setting.split("=") for setting in sys.argv[2:])
gauges = {name: settings.get(name, "0").split(",") for name in ("processing", "deferred")}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        print(f"{time.monotonic():.3f} {self.path} {self.headers['Authorization']}", flush=True)
        if self.path == "/metrics" and "silent" in settings:
            threading.Event().wait()
        body = ""
        if self.path == "/metrics":
            for gauge, values in gauges.items():
                value = values.pop(0) if len(values) > 1 else values[0]
                name = settings.get("prefix", "llamacpp:") + "requests_" + gauge
                body += f"# TYPE {name} gauge\n{name} {value}\n"
        self.send_response(int(settings.get(self.path.strip("/"), "200")))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.daemon_threads = True
print("ready", flush=True)
server.serve_forever()
