"""Starts Debian's Slurm with one node: on 127.0.0.1, on free ports, in a temporary directory."""

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from harness.processes import Processes, free_ports

# CPUs of the node. More than the machine has: a task mostly waits for the server.
CPUS = 16
# MinJobAge: the controller remembers ended tasks for an hour, so that scenarios can assert their states.
CONFIG = """\
ClusterName=s3haul
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={socket}
CryptoType=crypto/munge
CommunicationParameters=NoAddrCache,NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/logs/slurmctld.log
SlurmdLogFile={directory}/logs/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=100000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MinJobAge=3600
SlurmdTimeout=300
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=65536 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    def __init__(self, binary, keep=False):
        self.binary = Path(binary).resolve()
        self.directory = Path(tempfile.mkdtemp(prefix="s3haul-slurm-"))
        # mkdtemp makes a directory for its owner alone, but every user must reach Munge's socket.
        self.directory.chmod(0o755)
        self.keep = keep
        self.logs = self.directory / "logs"
        self.logs.mkdir()
        self.processes = Processes(self.logs)
        # Maps (array, index) of a requeued task to the time at which it was first seen waiting.
        self._waiting = {}
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if hasattr(self, "environment"):
            # Slurm's tasks are not children of this process, so only Slurm can end them.
            self.call("scancel", "--me", check=False)
            until = time.monotonic() + 20
            while self.call("squeue", "--noheader", check=False).strip() and time.monotonic() < until:
                time.sleep(0.2)
        self.processes.close()
        if self.keep:
            print(f"kept: {self.directory}")
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self):
        self._start_munge()
        controller, daemon = free_ports(2)
        self.host = os.uname().nodename.split(".")[0]
        self.conf = self.directory / "slurm.conf"
        user = pwd.getpwuid(os.getuid()).pw_name
        self.conf.write_text(CONFIG.format(
            host=self.host, controller=controller, daemon=daemon, user=user, socket=self.socket, directory=self.directory,
            cpus=CPUS,
        ))
        for name in ("state", "spool"):
            (self.directory / name).mkdir()
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        self.processes.start("slurmctld", ["slurmctld", "-D", "-c", "-f", self.conf])
        self._start_daemon()
        self._until(lambda: "idle" in self.call("sinfo", "--noheader", "--format=%T", check=False), "the node to be idle")

    def _start_munge(self):
        munge = pwd.getpwnam("munge")
        directory = self.directory / "munge"
        directory.mkdir(mode=0o755)
        key, self.socket = directory / "munge.key", directory / "socket"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        for path in (directory, key):
            os.chown(path, munge.pw_uid, munge.pw_gid)
        files = [f"--key-file={key}", f"--socket={self.socket}"]
        files += [f"--{name}-file={directory / name}" for name in ("pid", "seed", "log")]
        # setpriv replaces itself with munged. `runuser` would stay its parent, and killing it would leave munged
        # behind.
        user = ["setpriv", f"--reuid={munge.pw_uid}", f"--regid={munge.pw_gid}", "--clear-groups"]
        self.processes.start("munged", [*user, "munged", "--foreground", *files])
        self._until(lambda: self.socket.exists(), "munged to listen")

    @contextlib.contextmanager
    def without_daemon(self):
        """Kills slurmd, whose tasks keep running, and starts it again when the block ends. Only one scenario may use it
        at a time."""
        self._daemon.kill()
        self._daemon.wait()
        try:
            yield
        finally:
            self._start_daemon()

    def _start_daemon(self):
        self._daemon = self.processes.start("slurmd", ["slurmd", "-D", "-N", self.host, "-f", self.conf])

    def call(self, *command, check=True, environment=None, **options):
        done = subprocess.run(
            [str(part) for part in command], env={**self.environment, **(environment or {})},
            capture_output=True, text=True, check=False, timeout=60, **options,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, command))}: {done.stderr}")
        return done.stdout

    def tasks(self, array):
        """Maps the index of each task that Slurm still knows to its state and the reason why it is pending."""
        command = ["squeue", "--noheader", "--array", f"--job={array}", "--states=all", "--format=%K %T %r"]
        lines = [line.split(maxsplit=2) for line in self.call(*command, check=False).splitlines()]
        # A new array has no indices for a moment.
        return {int(index): (state, reason) for index, state, reason in lines if index.isdigit()}

    def go_on(self, array):
        """Starts requeued tasks after two seconds instead of Slurm's two minutes.

        The two seconds are needed. Slurm's credentials have times in whole seconds. If a task starts again within the
        second in which it was killed, slurmd takes its new credential for the old, revoked one, and the task fails.
        """
        now = time.monotonic()
        for index, waits in self.tasks(array).items():
            if waits != ("PENDING", "BeginTime"):
                self._waiting.pop((array, index), None)
            elif now - self._waiting.setdefault((array, index), now) >= 2:
                self._waiting.pop((array, index))
                self.call("scontrol", "update", f"JobId={array}_{index}", "StartTime=now", check=False)

    def _until(self, condition, what):
        until = time.monotonic() + 60
        while not condition():
            if time.monotonic() > until:
                raise AssertionError(f"waited 60 s for {what}; see {self.logs}")
            time.sleep(0.1)
