"""A gRPC server of all kinds of calls, on Python's grpcio: each message says who answers it.

Listens on PORT. Exits with 3 when grpcio is missing.
"""

import os
import sys
from concurrent import futures

try:
    import grpc
except ImportError:
    sys.exit(3)

NAME = os.environ.get("NAME", "one").encode()


def unary(message, context):
    context.set_trailing_metadata((("x-answered-by", NAME.decode()),))
    return NAME + b" got " + message


def server_stream(message, context):
    for number in range(int(message)):
        yield NAME + b" says %d" % number


def client_stream(messages, context):
    return NAME + b" got " + b",".join(messages)


def bidi(messages, context):
    for message in messages:
        yield NAME + b" got " + message


def fail(message, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 %")


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
}

server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", HANDLERS),))
server.add_insecure_port("127.0.0.1:" + os.environ["PORT"])
server.start()
server.wait_for_termination()
