"""The warmed Python function of the demo: an HTTP server with a pool of threads and --mb megabytes of numpy data.

GET /healthz   200 once the server is ready
GET /value     {"counter": requests so far, "value": computed from a sample of the data}: /value of a clone goes on
               counting where its snapshot stood, and returns the same value
GET /checksum  {"checksum": the xor of all of the data}: touches every page
GET /burn?ms=N keeps one thread busy for N milliseconds
"""
import argparse
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np


class State:
    """What a cold start has to build and a clone has for nothing."""

    def __init__(self, megabytes, seed=42):
        # Random words: neither zero nor compressible, like weights or an index in memory.
        self.data = np.random.default_rng(seed).integers(1, 2**63, megabytes << 17, dtype=np.uint64)
        self.index = {f"key-{i}": int(self.data[i]) for i in range(min(20_000, self.data.size))}
        self.counter = 0
        self.lock = threading.Lock()

    def value(self):
        with self.lock:
            self.counter += 1
            counter = self.counter
        sample = self.data[:: max(1, self.data.size // 64)]
        value = int(np.bitwise_xor.reduce(sample)) ^ self.index["key-7"]
        return {"counter": counter, "value": value & 0xFFFFFFFF}

    def checksum(self):
        return {"checksum": f"{int(np.bitwise_xor.reduce(self.data)):016x}"}

    def burn(self, milliseconds):
        end = time.monotonic() + milliseconds / 1000
        rounds = 0
        while time.monotonic() < end:
            np.sort(self.data[:4096])
            rounds += 1
        return {"rounds": rounds}


class Server(HTTPServer):
    request_queue_size = 128

    def __init__(self, address, state, threads):
        super().__init__(address, Handler)
        self.state = state
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="worker")
        started = threading.Barrier(threads + 1)
        for _ in range(threads):
            self.pool.submit(started.wait)
        started.wait()  # every thread of the pool exists before the server says that it is ready

    def process_request(self, request, client_address):
        self.pool.submit(self.answer, request, client_address)

    def answer(self, request, client_address):
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client went away
        finally:
            self.shutdown_request(request)


class Handler(BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self):
        url = urlsplit(self.path)
        state = self.server.state
        if url.path == "/healthz":
            self.reply(200, {"status": "ok"})
        elif url.path == "/value":
            self.reply(200, state.value())
        elif url.path == "/checksum":
            self.reply(200, state.checksum())
        elif url.path == "/burn":
            self.reply(200, state.burn(float(parse_qs(url.query).get("ms", ["50"])[0])))
        else:
            self.reply(404, {"error": "no such page"})

    def reply(self, status, body):
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mb", type=int, default=150, help="megabytes of data to hold")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--threads", type=int, default=8)
    args = parser.parse_args()
    state = State(args.mb)
    server = Server(("0.0.0.0", args.port), state, args.threads)
    state.burn(1)
    print(f"ready: {args.mb} MB, port {args.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
