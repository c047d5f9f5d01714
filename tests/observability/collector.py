"""A receiver of OTLP on the official Python packages grpcio and opentelemetry-proto, over gRPC and over HTTP.

Says on which ports it listens, then a line of JSON for each span. Status 3: a package is absent.
"""

import json
import sys
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

try:
    import grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as wire
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
except ImportError as absent:
    print(absent, file=sys.stderr)
    sys.exit(3)

LOCK = Lock()


def take(request, over):
    for of_resource in request.resource_spans:
        resource = said(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                tell(over, resource, of_scope.scope.name, span)
    return service.ExportTraceServiceResponse()


def said(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def tell(over, resource, scope, span):
    line = {
        "over": over,
        "resource": resource,
        "scope": scope,
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind),
        "status": Status.StatusCode.Name(span.status.code),
        "from": span.start_time_unix_nano,
        "ns": span.end_time_unix_nano - span.start_time_unix_nano,
        "attributes": said(span.attributes),
        "events": [event.name for event in span.events],
        "links": [[link.trace_id.hex(), link.span_id.hex()] for link in span.links],
    }
    with LOCK:
        print(json.dumps(line), flush=True)


class OverGrpc(wire.TraceServiceServicer):
    def Export(self, request, context):
        return take(request, "grpc")


class OverHttp(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        is_otlp = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
        if is_otlp:
            request = service.ExportTraceServiceRequest()
            request.ParseFromString(body)
            answer = take(request, "http").SerializeToString()
        else:
            answer = b""
        self.send_response(200 if is_otlp else 415)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *of_requests):
        pass


grpc_server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
wire.add_TraceServiceServicer_to_server(OverGrpc(), grpc_server)
grpc_port = grpc_server.add_insecure_port("127.0.0.1:0")
grpc_server.start()
http_server = ThreadingHTTPServer(("127.0.0.1", 0), OverHttp)
Thread(target=http_server.serve_forever, daemon=True).start()
print(json.dumps({"grpc": grpc_port, "http": http_server.server_port}), flush=True)
# Its parent closes its standard input when it has seen enough.
sys.stdin.read()
