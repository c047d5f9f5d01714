"""A receiver of OTLP over gRPC on the official Python packages grpcio and opentelemetry-proto.

Says on which port it listens, then a line of JSON for each span. Status 3: a package is absent.
"""

import json
import sys
from concurrent import futures

try:
    import grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as wire
    from opentelemetry.proto.trace.v1.trace_pb2 import Span
except ImportError as absent:
    print(absent, file=sys.stderr)
    sys.exit(3)


class Collector(wire.TraceServiceServicer):
    def Export(self, request, context):
        for of_resource in request.resource_spans:
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    tell(span)
        return service.ExportTraceServiceResponse()


def tell(span):
    line = {
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind),
        "ns": span.end_time_unix_nano - span.start_time_unix_nano,
        "links": [link.span_id.hex() for link in span.links],
    }
    print(json.dumps(line), flush=True)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
wire.add_TraceServiceServicer_to_server(Collector(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
# Its parent closes its standard input when it has seen enough.
sys.stdin.read()
