"""Processes that end when the test ends."""

import signal
import socket
import subprocess
import sys


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def exit_on_signals(status):
    """Makes SIGINT, SIGTERM, and SIGHUP end the program by an exception, so that the processes it has started end too.
    Ignores further signals during that, such as the one that `timeout` sends to the group."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(*_):
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        sys.exit(status)

    for number in signals:
        signal.signal(number, stop)


class Processes:
    """The processes that one owner has started. `close` kills them by pid, the last one first."""

    def __init__(self, logs):
        self.logs = logs
        self._running = []

    def start(self, name, command):
        with open(self.logs / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A signal to the runner's process group must reach only the runner, which then ends its processes.
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def close(self):
        for process in reversed(self._running):
            # SIGKILL, because the API server takes ten seconds to shut down.
            process.kill()
            process.wait()
        self._running.clear()
