"""Starts `poda serve` and looks at it."""

import json
import subprocess
import time
import urllib.request
from pathlib import Path


class Server:
    """A server on free ports of the loopback; ended when the block is left."""

    def __init__(self, poda, *args):
        command = [poda, "serve", *args, "--http", "127.0.0.1:0", "--grpc", "off", "--log-level", "warn"]
        start = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = None
        for line in self.process.stdout:
            what, value = line.split()
            if what == "http":
                self.url = "http://" + value
            if what == "ready":
                self.ready_seconds = time.monotonic() - start
                return
        raise SystemExit(f"{command} did not become ready")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)
        self.process.stdout.close()

    def memory(self, field="VmRSS"):
        """MiB of this process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024

    def descriptors(self):
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def post(self, path, value=None):
        request = urllib.request.Request(self.url + path, json.dumps(value or {}).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=60))


def load(poda, url, *args):
    """The report of `poda load`."""
    done = subprocess.run([poda, "load", url, "--json", *args], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)
