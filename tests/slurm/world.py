"""The environment of one scenario: its own S3, and a directory with the script and the manifest of deploy/slurm."""

import os
import re
import shutil
import time

import yaml

from harness import ROOT
from harness.checks import equal
from harness.processes import Processes
from harness.server import KEYS, Server
from harness.shards import Run

SCRIPT = "s3haul.sbatch"


class World:
    def __init__(self, slurm, name):
        self.slurm = slurm
        self.name = name.replace("_", "-")
        self.directory = slurm.directory / "scenarios" / self.name
        self.directory.mkdir(parents=True)
        self.processes = Processes(self.directory)
        self.server = Server(self.processes, slurm.binary)
        programs = self.directory / "bin"
        programs.mkdir()
        (programs / "s3haul").symlink_to(slurm.binary)
        for file in (SCRIPT, "job.yaml"):
            shutil.copy(ROOT / "deploy/slurm" / file, self.directory)
        self.array = None

    def close(self):
        if self.array:
            self.slurm.call("scancel", self.array, check=False)
        self.processes.close()

    # Actions of an operator.

    def edit(self, shards, pods, manifest=None):
        """Edits the script and the manifest as deploy/README.md says: the name, the array, and the provider.
        `manifest`, if given, edits the parsed manifest further."""
        script = self.directory / SCRIPT
        text = script.read_text()
        for setting, value in {"job-name": self.name, "array": f"0-{shards - 1}%{pods}"}.items():
            text, count = re.subn(rf"(?m)^#SBATCH --{setting}=.*$", f"#SBATCH --{setting}={value}", text)
            assert count == 1, setting
        script.write_text(text)
        path = self.directory / "job.yaml"
        job = yaml.safe_load(path.read_text())
        # Shared state needs a server that is known to honor If-None-Match.
        job["endpoints"]["default"]["provider"] = "aws"
        if manifest:
            manifest(job)
        path.write_text(yaml.safe_dump(job))
        self.shards = shards

    def submit(self):
        environment = {
            **KEYS, "AWS_ENDPOINT_URL_S3": self.server.url, "AWS_REGION": self.server.region,
            "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}", "S3HAUL_LOG_FORMAT": "json",
        }
        printed = self.slurm.call("sbatch", "--parsable", SCRIPT, cwd=self.directory, environment=environment)
        self.array = printed.strip()
        return self.array

    def resize(self, pods):
        """Changes P. scontrol exits with an error if a task has ended, but changes the others, so the result is checked
        instead."""
        self.slurm.call("scontrol", "update", f"JobId={self.array}", f"ArrayTaskThrottle={pods}", check=False)
        known = self.slurm.call("scontrol", "show", "job", self.array)
        equal(set(re.findall(r"ArrayTaskThrottle=(\d+)", known)), {str(pods)}, "P of the tasks")

    # Results.

    def shares(self):
        """Returns the shares of `in_flight` with which tasks have started so far."""
        log = "".join(path.read_text() for path in self.directory.glob("*.log"))
        return {int(share) for share in re.findall(r'"in_flight":(\d+)', log)}

    def run(self):
        return Run(self.server, f"s3haul/lake/{self.name}/", self.shards, self.poll)

    def states(self):
        """Maps the index of each task to its state."""
        return {index: state for index, (state, _) in self.slurm.tasks(self.array).items()}

    def with_state(self, *states):
        return sorted(index for index, state in self.states().items() if state in states)

    def poll(self, condition, what, timeout):
        """Waits until `condition()` returns something true, and returns it. Meanwhile restarts requeued tasks."""
        until = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < until, f"waited {timeout} s for {what}"
            self.slurm.go_on(self.array)
            time.sleep(0.5)
        return found

    def wait_for_end(self, timeout):
        waiting = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")
        self.poll(lambda: not self.with_state(*waiting), f"the end of array {self.array}", timeout)
        return self.states()

    def describe(self):
        """Returns the states and logs that explain a failed scenario."""
        lines = [f"{index}: {state}" for index, state in sorted(self.states().items())] if self.array else []
        for log in sorted(self.directory.glob("*.log")):
            lines += [log.name, *(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-8:])]
        return "\n".join(lines)
