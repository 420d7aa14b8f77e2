#!/usr/bin/env python3
"""Measures runs in shards: how they scale with the number of processes, and how long planning takes.

    cargo build --release --locked && python3 benches/shards.py

The sandbox has 16 prefixes, each with the rates of one partition of S3: 3,500 writes and 5,500 reads per second. Client and
sandbox share this machine, so latency and CPU are measured separately:

- `plan`: the time of `plan --shards` for 1,000,000 keys. A list takes 60 ms.
- `held`: P = 1, 2, 4, 8 processes, whose speed is limited by the server's latency (15 ms for a HEAD, 35 ms for a copy) and by
  their requests in flight. P processes must be at least 0.95 P times as fast as one.
- `full`: P = 1 and 4 processes at full speed, on a server without latency: the CPU time per object.

Each worker runs one shard after the other, as an engine does. A result counts only if each object was copied once and
`status` reports all shards as done. The exit code is 1 if a goal is missed.
"""

import argparse
import json
import pathlib
import queue
import resource
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE / "versus"))

from clients import base
from process import Sandbox

STATE = "s3://ops/s3haul/bench/"
PREFIXES = 16
SPEED_GOAL, PLAN_GOAL = 0.95, 10.0


def objects(count):
    """Returns the flags of a sandbox with `count` objects of 4 KiB in 16 prefixes."""
    each = count // PREFIXES
    return ["--bucket", "copies", "--bucket", "ops", *(f"--object=s3://data/p{at:02}/={each}x4KiB" for at in range(PREFIXES))]


class World:
    """A sandbox, and a job that copies all its objects."""

    def __init__(self, binary, flags, in_flight=None):
        self.binary = binary
        self.sandbox = Sandbox(str(binary), flags)
        self.directory = tempfile.TemporaryDirectory()
        self.environment = base(self.sandbox.variables, self.directory.name)
        limits = f"limits: {{in_flight: {in_flight}}}\n" if in_flight else ""
        self.job = pathlib.Path(self.directory.name) / "job.yaml"
        self.job.write_text(
            "version: 1\nname: bench\n" + limits +
            "endpoints: {default: {provider: aws}}\n"
            "transfers:\n- {from: {s3: s3://data/}, to: {s3: s3://copies/}}\n"
        )

    def __enter__(self):
        self.sandbox.__enter__()
        return self

    def __exit__(self, *failure):
        self.sandbox.__exit__(*failure)
        self.directory.cleanup()

    def s3haul(self, *arguments, exits=(0,)):
        command = [str(self.binary), *arguments]
        ended = subprocess.run(command, env=self.environment, cwd=self.directory.name, capture_output=True, text=True)
        if ended.returncode not in exits:
            sys.exit(f"{' '.join(command)} exited with {ended.returncode}: {ended.stderr[-2000:]}")
        return ended.stdout

    def plan(self, shards, *flags):
        """Writes the plan. Returns the time it took, in seconds."""
        began = time.monotonic()
        self.s3haul("plan", str(self.job), "--shards", str(shards), "--out", STATE, "--quiet", *flags)
        return time.monotonic() - began

    def run(self, shards, processes):
        """Runs all shards with this many workers. Returns the time, and the CPU time of all processes, in seconds."""
        waiting, failures = queue.SimpleQueue(), []
        for shard in range(shards):
            waiting.put(shard)

        def work():
            while not failures:
                try:
                    shard = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    self.s3haul(
                        "run", str(self.job), "--state", STATE, "--shards", str(shards), "--pods", str(processes),
                        "--shard", str(shard), "--quiet",
                    )
                except SystemExit as failure:
                    failures.append(failure)

        before, began = children_cpu(), time.monotonic()
        workers = [threading.Thread(target=work) for _ in range(processes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds, cpu = time.monotonic() - began, children_cpu() - before
        if failures:
            raise failures[0]
        return seconds, cpu

    def require_done(self, shards):
        status = json.loads(self.s3haul("status", STATE, "--json"))
        if status["shards"]["done"] != shards:
            sys.exit(f"not all shards are done: {status['shards']}")

    def require_copied_once(self, count):
        copies = self.sandbox.seen["calls"].get("CopyObject", 0)
        there = next(each["objects"] for each in self.sandbox.seen["buckets"] if each["bucket"] == "copies")
        if (copies, there) != (count, count):
            sys.exit(f"{count} objects needed {copies} copies, and the destination has {there}")


def children_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def planning(binary, keys, shard_counts):
    """Measures `plan`. Returns the table, and whether the goal is met."""
    rows, met = [], True
    for shards in shard_counts:
        with World(binary, [*objects(keys), "--model", "aws"]) as world:
            seconds = world.plan(shards)
        lists = world.sandbox.seen["calls"].get("ListObjectsV2", 0)
        met &= seconds < PLAN_GOAL
        rows.append(f"| {keys:,} | {shards:,} | {seconds:.1f} s | {lists:,} | {lists / shards:.1f} |")
    return ["| keys | shards | time | lists | lists per shard |", "|---" * 5 + "|", *rows], met


def held(binary, count, shards, each_in_flight):
    """Measures `held`. Returns the table, and whether the goal is met."""
    rows, met, one = [], True, None
    for processes in (1, 2, 4, 8):
        # The limits of a job are divided among its processes.
        with World(binary, [*objects(count), "--model", "aws"], each_in_flight * processes) as world:
            # --exact counts every key, so that the shards are equal and unequal shards do not slow down P processes.
            world.plan(shards, "--exact")
            seconds, cpu = world.run(shards, processes)
            world.require_done(shards)
        world.require_copied_once(count)
        one = one or seconds
        speed = one / seconds
        met &= speed >= SPEED_GOAL * processes
        rows.append(
            f"| {processes} | {seconds:.1f} s | {count / seconds:,.0f} | {speed:.2f} | {speed / processes:.2f} | "
            f"{cpu:.1f} s | {world.sandbox.cpu:.1f} s |"
        )
    return ["| P | time | objects a second | speed | speed / P | CPU | sandbox's CPU |", "|---" * 7 + "|", *rows], met


def full(binary, count, shards):
    """Measures `full`. Returns the table."""
    rows = []
    for processes in (1, 4):
        with World(binary, objects(count)) as world:
            world.plan(shards)
            seconds, cpu = world.run(shards, processes)
            world.require_done(shards)
        world.require_copied_once(count)
        rows.append(
            f"| {processes} | {seconds:.1f} s | {count / seconds:,.0f} | {cpu / count * 1e6:.0f} µs | "
            f"{world.sandbox.cpu / count * 1e6:.0f} µs |"
        )
    return ["| P | time | objects a second | CPU per object | sandbox's CPU per object |", "|---" * 5 + "|", *rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=HERE.parent / "target" / "release" / "s3haul")
    parser.add_argument("--keys", type=int, default=1_000_000, help="keys to plan (1,000,000)")
    parser.add_argument("--objects", type=int, default=32_000, help="objects to copy (32,000)")
    parser.add_argument("--only", choices=("plan", "held", "full"), action="append", help="measure only this; may be repeated")
    asked = parser.parse_args()
    binary, only = asked.binary.resolve(), asked.only or ("plan", "held", "full")
    missed = []
    for name, measure in (
        ("plan", lambda: planning(binary, asked.keys, (512, 2000))),
        ("held", lambda: held(binary, asked.objects, 64, 16)),
        ("full", lambda: (full(binary, asked.objects, 64), True)),
    ):
        if name in only:
            rows, met = measure()
            print(f"\n{name}\n", *rows, sep="\n", flush=True)
            missed += [] if met else [name]
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
