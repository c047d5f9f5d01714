"""A WebSocket client on Python's websockets: websocket_client.py ADDRESS HOST

Prints a line of JSON with what it has seen. Exits with 3 when websockets is missing.
"""

import json
import socket
import sys

try:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect
except ImportError:
    sys.exit(3)

address, host = sys.argv[1:]
name, port = address.rsplit(":", 1)
tcp = socket.create_connection((name, int(port)))
large = bytes(range(256)) * 4096
said = {}
with connect(f"ws://{host}/chat", sock=tcp, max_size=None, open_timeout=60) as client:
    client.send("hello")
    said["text"] = client.recv(timeout=60)
    client.send(large)
    said["large"] = client.recv(timeout=60) == large
    client.send(["in ", "three ", "frames"])
    said["fragments"] = client.recv(timeout=60)
    said["pong"] = client.ping().wait(timeout=60)
    client.send("goodbye")
    try:
        client.recv(timeout=60)
    except ConnectionClosed as closed:
        said["close"] = [closed.rcvd.code, closed.rcvd.reason]
print(json.dumps(said), flush=True)
