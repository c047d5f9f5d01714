"""Calls of all kinds by Python's grpcio, over one connection: grpc_client.py ADDRESS HOST CALL...

Prints a line of JSON with what became of each call. Exits with 3 when grpcio is missing.
"""

import json
import queue
import sys
import threading

try:
    import grpc
except ImportError:
    sys.exit(3)

address, host, *wanted = sys.argv[1:]
channel = grpc.insecure_channel(address, options=[("grpc.default_authority", host)])


def unary():
    answer, call = channel.unary_unary("/shop.Shop/Unary").with_call(b"order", timeout=60)
    return [answer.decode(), dict(call.trailing_metadata()).get("x-answered-by")]


def server_stream():
    return [m.decode() for m in channel.unary_stream("/shop.Shop/ServerStream")(b"3", timeout=60)]


def client_stream():
    messages = iter([b"a", b"b", b"c"])
    return channel.stream_unary("/shop.Shop/ClientStream")(messages, timeout=60).decode()


def bidi():
    """Each message waits for the answer to the one before."""
    messages, heard = queue.Queue(), []
    answers = channel.stream_stream("/shop.Shop/Bidi")(iter(messages.get, None), timeout=60)
    for number in range(3):
        messages.put(b"%d" % number)
        heard.append(next(answers).decode())
    messages.put(None)
    return heard + [m.decode() for m in answers]


def fail():
    return channel.unary_unary("/shop.Shop/Fail")(b"", timeout=60).decode()


def hurried():
    return channel.unary_unary("/shop.Shop/Unary")(b"", timeout=0.5).decode()


CALLS = {f.__name__: f for f in (unary, server_stream, client_stream, bidi, fail, hurried)}
said = {}


def call(name):
    try:
        said[name] = CALLS[name]()
    except grpc.RpcError as error:
        said[name] = {"code": error.code().name, "details": error.details()}


threads = [threading.Thread(target=call, args=(name,)) for name in wanted]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(said), flush=True)
