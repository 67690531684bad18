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

    def pss(self):
        """MiB of this process, shared pages counted by how many share them."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024

    def descriptors(self):
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def get(self, path):
        return urllib.request.urlopen(self.url + path, timeout=60).read().decode()

    def statistics(self):
        """Of the only model."""
        return json.loads(self.get("/v2/models/stats"))["model_stats"][0]

    def metric(self, name):
        """The sum of the series of a metric."""
        values = [line.rsplit(" ", 1)[1] for line in self.get("/metrics").splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(map(float, values))

    def post(self, path, value=None):
        request = urllib.request.Request(self.url + path, json.dumps(value or {}).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=60))


def load(poda, url, *args):
    """The report of `poda load`."""
    done = subprocess.run([poda, "load", url, "--json", *args], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)
