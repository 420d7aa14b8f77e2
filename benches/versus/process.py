"""Runs the sandbox, and a client that is measured, as processes."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """Returns the user and system time of a running process."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Sandbox:
    """A sandbox process. When it has ended, `seen` has its summary, and `cpu` its CPU seconds since it was ready."""

    def __init__(self, binary, flags):
        command = [binary, "sandbox", "--json", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        self.variables = dict(re.findall(r"(AWS_\w+)=(\S+)", line))
        if "AWS_ENDPOINT_URL_S3" not in self.variables:
            raise SystemExit(f"the sandbox did not start: {' '.join(command)}")
        self.before = cpu_seconds(self.process.pid)
        self.seen, self.cpu = None, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cpu = cpu_seconds(self.process.pid) - self.before
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate()
        self.seen = json.loads(output) if output.strip() else None


@dataclasses.dataclass
class Measured:
    """One run of a client."""

    seconds: float
    cpu: float
    """User and system time, in seconds."""
    memory: int
    """Largest resident set, in bytes. The child starts with the memory of this program, about 20 MiB, so smaller values cannot be
    measured."""
    exit: int
    stopped: bool
    """True if it was stopped because it took too long."""
    output: str
    """The end of its output."""


def measure(command, environment, directory, limit):
    """Runs a command until it ends, for `limit` seconds at most."""
    log = os.path.join(directory, "output")
    stopped = threading.Event()
    with open(log, "wb") as output:
        began = time.monotonic()
        child = subprocess.Popen(
            command, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )

        def stop():
            stopped.set()
            os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(limit, stop)
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - began
        timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
    with open(log, "rb") as output:
        output.seek(max(0, os.path.getsize(log) - 2000))
        tail = output.read().decode(errors="replace").strip()
    return Measured(
        seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, child.returncode, stopped.is_set(), tail
    )


def time_to_first_request(command_of, environment_of, directory, limit):
    """Returns the seconds from the start of a client until the first byte of a request arrives, or None if none arrives, and the
    CPU seconds until then. `command_of` and `environment_of` take the endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(limit)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        began = time.monotonic()
        child = subprocess.Popen(
            command_of(url), env=environment_of(url), cwd=directory, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        try:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(limit)
                connection.recv(1)
                seconds = time.monotonic() - began
        except TimeoutError:
            seconds = None
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            _, _, usage = os.wait4(child.pid, 0)
            child.returncode = -signal.SIGKILL
    return seconds, usage.ru_utime + usage.ru_stime
