"""A WebSocket server on Python's websockets: it echoes, and says goodbye with a code of its own when asked to.

Listens on PORT. Exits with 3 when websockets is missing.
"""

import os
import sys

try:
    from websockets.sync.server import serve
except ImportError:
    sys.exit(3)


def answer(socket):
    for message in socket:
        if message == "goodbye":
            socket.close(4321, "until then")
            return
        socket.send(message)


with serve(answer, "127.0.0.1", int(os.environ["PORT"]), max_size=None, compression="deflate") as server:
    server.serve_forever()
