#!/usr/bin/env python3
"""Checks that memory does not grow with the number or size of objects: peak memory of the release build, against a
sandbox process.

Asserts memory and results. Prints seconds but does not assert them, because they vary too much on a shared machine.
"""

import os
import re
import subprocess
import sys
import time

BINARY = sys.argv[1] if len(sys.argv) > 1 else "target/release/s3haul"
MIB = 1 << 20


def sandbox(*arguments):
    """Starts a sandbox. Returns the process and an environment with its endpoint and keys."""
    server = subprocess.Popen([BINARY, "sandbox", *arguments], stdout=subprocess.PIPE, text=True)
    line = server.stdout.readline()
    variables = dict(re.findall(r"(AWS_\w+)=(\S+)", line))
    return server, {**os.environ, **variables, "AWS_EC2_METADATA_DISABLED": "true"}


def peak(arguments, environment):
    """Runs a copy. Returns its peak memory in bytes and its time in seconds."""
    began = time.monotonic()
    command = [BINARY, "copy", *arguments, "--provider", "aws", "--quiet"]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"{arguments} failed"
    return usage.ru_maxrss * 1024, time.monotonic() - began


def measure(seed, source, *flags, model="instant"):
    server, environment = sandbox("--model", model, "--bucket", "copies", "--object", seed)
    try:
        memory, seconds = peak([source, "s3://copies/", *flags], environment)
    finally:
        server.terminate()
        server.wait()
    print(f"{seed:40} {memory / MIB:6.0f} MiB  {seconds:6.1f} s", flush=True)
    return memory


few = measure("s3://data/s/=100000x64KiB", "s3://data/s/", "--in-flight", "256")
many = measure("s3://data/s/=500000x64KiB", "s3://data/s/", "--in-flight", "256")
# Both runs are long enough for the allocator and the ranges of the list to reach a steady state; a run of 20,000
# objects is not. Peaks of equal runs differ by up to 8 MiB. Anything kept per object, such as a key or a receipt, would
# exceed the bound: 24 MiB are 60 bytes for each of the 400,000 more objects.
assert many - few < 24 * MIB, f"memory grew from {few / MIB:.0f} to {many / MIB:.0f} MiB with five times the objects"
# Memory depends on the requests in flight (about 24 KiB each, at most 8,192 of them), not on the size of the object.
large = measure("s3://data/big=1TiB", "s3://data/big", "--in-flight", "2048", model="aws")
assert large < 150 * MIB, f"1 TiB took {large / MIB:.0f} MiB with 2,048 requests in flight"
widest = measure("s3://data/big=1TiB", "s3://data/big", model="aws")
assert widest < 250 * MIB, f"1 TiB took {widest / MIB:.0f} MiB with the number of requests in flight that s3haul chose"
largest = measure("s3://data/largest=53687091200000B", "s3://data/largest")
assert largest < 150 * MIB, f"48.8 TiB took {largest / MIB:.0f} MiB"
