"""A receiver of traces by OTLP over HTTP, which reads them with OpenTelemetry's own message classes.

Prints its port, then a JSON line for each request: its headers, and the request as protobuf's JSON mapping writes it, in
which ids are in hex. What it answers is told by lines on its standard input, each of which counts from then on:
`take`, `reject N` (a partial success), `hang`, or a status such as `503`. It ends with its standard input.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

said = threading.Lock()
mood = "take"


def say(line):
    with said:
        print(line, flush=True)


def as_read(body):
    """What a request says. A field that the messages do not know is a mistake of the sender."""
    request = ExportTraceServiceRequest.FromString(body)
    read = MessageToDict(request)
    for resource, read_resource in zip(request.resource_spans, read["resourceSpans"]):
        for scope, read_scope in zip(resource.scope_spans, read_resource["scopeSpans"]):
            for span, read_span in zip(scope.spans, read_scope["spans"]):
                read_span["traceId"], read_span["spanId"] = span.trace_id.hex(), span.span_id.hex()
                read_span["parentSpanId"] = span.parent_span_id.hex()
    # Writing it again gives the same bytes only if all of them were understood, and were in the one usual form.
    assert request.SerializeToString() == body, "the request is not as the official classes write it"
    return read


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        request = {"path": self.path, "headers": {name.lower(): value for name, value in self.headers.items()}}
        request |= as_read(body) if mood == "take" else {}
        say(json.dumps(request))
        if mood == "hang":
            threading.Event().wait()
        response = ExportTraceServiceResponse()
        status = 200
        if mood.startswith("reject"):
            response.partial_success.rejected_spans = int(mood.split()[1])
            response.partial_success.error_message = "too old"
        elif mood != "take":
            status = int(mood)
        answer = response.SerializeToString()
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def main():
    global mood
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say(str(server.server_port))
    for line in sys.stdin:
        mood = line.strip()
        say(f"mood {mood}")


main()
