"""Processes that end with the test."""

import socket
import subprocess


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Processes:
    """The processes that one owner has started. `close` ends them by their ids, the last one first."""

    def __init__(self, logs):
        self.logs = logs
        self._running = []

    def start(self, name, command, **options):
        with open(self.logs / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options
            )
        self._running.append(process)
        return process

    def close(self):
        for process in reversed(self._running):
            # The API server takes ten seconds to end in order.
            process.kill()
            process.wait()
        self._running.clear()
