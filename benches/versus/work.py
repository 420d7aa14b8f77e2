"""The works to measure: the sandbox each one needs, and the shortest time that the sandbox's model allows."""

import dataclasses
import math

KIB, MIB, GIB, TIB = (1 << shift for shift in (10, 20, 30, 40))

# The sandbox's `--model aws`: seconds, bytes per second, and requests per second.
LIST, HEAD, CREATE, COPY, COMPLETE = 0.060, 0.015, 0.025, 0.035, 0.080
SLOW_PART = 2.45
"""Seconds that Amazon S3 took for a large part in a measurement, besides the time for its bytes."""
SPEED, WRITES, READS = 80e6, 3500, 5500
BURST = 0.25
"""Seconds' worth of a rate that may be used at once."""


@dataclasses.dataclass(frozen=True)
class Work:
    """One row of the results. `kind` is the task: copy-one, copy-many, sync, upload-file, upload-files, or start."""

    name: str
    title: str
    kind: str
    sandbox: tuple = ()
    limit: float | None = None
    """Shortest time that the model allows, in seconds, with any number of requests in flight and none wasted."""
    limit_text: str = ""
    goal: str = ""
    unit: tuple | None = None
    """The CPU seconds are divided by this: a count and its name."""
    files: tuple | None = None
    """For uploads: the number of files and the size of each in bytes."""
    part: int = 128
    """Best part size, in MiB, for clients with a flag for it."""
    in_flight: int = 512
    """Requests in flight, for clients with a flag for them."""
    capped: bool = False
    """True if s3haul gets `in_flight` as a flag too."""
    clients: tuple | None = None
    """The clients to measure, or None for all."""


def writes(count):
    """Returns the seconds that the model needs to admit this many writes."""
    return max(0.0, count - BURST * WRITES) / WRITES


def multipart(sizes, small=0, in_flight=math.inf):
    """Returns the seconds for multipart objects next to small ones, with the best part size for all of them. An object has at
    most 10,000 parts."""
    def time(part):
        parts = sum(math.ceil(size / part) for size in sizes)
        streams = (parts * COPY + sum(sizes) / SPEED) / in_flight
        return max(streams, writes(small + parts + 2 * len(sizes)) + COPY + part / SPEED)

    parts = [part * MIB for part in range(5, 5121) if all(size <= 10_000 * part * MIB for size in sizes)]
    return HEAD + CREATE + min(time(part) for part in parts) + COMPLETE


FAULTS = (
    '{"probability": 0.01, "seed": 1, "effect": {"answer": {"status": 500, "code": "InternalError"}}}',
    '{"probability": 0.005, "seed": 2, "effect": "throttle"}',
    '{"probability": 0.005, "seed": 3, "effect": {"reset": "before"}}',
    '{"probability": 0.003, "seed": 4, "effect": {"reset": "after"}}',
    '{"operation": ["CopyObject", "UploadPartCopy", "CompleteMultipartUpload"], "probability": 0.005, "seed": 5, '
    '"effect": {"answer": {"status": 200, "code": "InternalError"}}}',
    '{"probability": 0.001, "seed": 6, "effect": {"delay": "30s"}}',
)
"""1 % of all requests fail with 500 and 0.5 % with 503; 0.5 % are reset before they take effect and 0.3 % after; 0.5 % of
copies and Completes fail inside a 200; and 0.1 % of all requests are delayed by 30 s."""


def ramped(count, period, start):
    """Returns the seconds until a rate that begins at the fraction `start` of the full one, and doubles every `period`, has
    admitted this many writes."""
    left, rate, time = count - BURST * WRITES * start, WRITES * start, 0.0
    while rate < WRITES and left > rate * period:
        left -= rate * period
        time += period
        rate *= 2
    return time + left / rate


def size(count):
    """Formats a size for a flag."""
    return f"{int(count)}B"


def works(scale):
    """Returns all rows, scaled by `scale`."""
    def number(count):
        return max(1, round(count * scale))

    aws = ("--bucket", "copies", "--model", "aws")
    instant = ("--bucket", "copies")
    uploads = ("--bucket", "copies", "--virtual-uploads")
    tera, fifty = int(TIB * scale), int(50 * GIB * scale)
    small, thousand, pairs = number(20_000), number(50_000), number(1_000_000)
    period = max(0.1, 10 * scale)
    one = f"--object=s3://data/big={size(tera)}"
    few = f"--object=s3://data/s/={small}x64KiB-1MiB"
    # 30 sizes from 2 to 20 GiB, 356 GiB in total.
    large = [int((2 + 18 * (at / 29) ** 0.82) * scale * 1024) * MIB for at in range(30)]
    beside = number(2_000)
    mixed = [f"--object=s3://data/s/large-{at:02}={size(each)}" for at, each in enumerate(large)]
    mean = (64 * KIB + MIB) / 2
    serial = math.ceil(pairs / 1000) * LIST

    def in_place(count):
        return instant_lists(count), (
            "--model", "aws", f"--object=s3://data/s/={count}x1KiB", "--copied", "s3://data/s/=s3://copies/s/"
        )

    def instant_lists(count):
        return LIST + max(0.0, math.ceil(count / 1000) - BURST * READS) / READS

    rows = [
        Work(
            "big", f"one object of {tera / TIB:g} TiB", "copy-one", (*aws, one), multipart([tera]),
            goal="15 s", part=128,
        ),
        Work(
            "medium", f"one object of {fifty / GIB:g} GiB", "copy-one",
            (*aws, f"--object=s3://data/big={size(fifty)}"), multipart([fifty]), goal="2.0 s", part=32,
        ),
        Work(
            "small", f"{small:,} objects of 64 KiB-1 MiB", "copy-many", (*aws, few),
            LIST + writes(small) + COPY + mean / SPEED, goal="6.2 s, < 1 % throttled",
            unit=(small, "object"),
        ),
        Work(
            "mixed", f"{beside:,} small and 30 of 2-20 GiB ({sum(large) / GIB:,.0f} GiB)", "copy-many",
            (*aws, f"--object=s3://data/s/={beside}x64KiB-1MiB", *mixed), LIST + multipart(large, beside),
            goal="5.0 s", part=64,
        ),
        Work(
            "faults", f"{beside:,} small and 30 of 2-20 GiB, with faults", "copy-many",
            (*aws, f"--object=s3://data/s/={beside}x64KiB-1MiB", *mixed, *(f"--rule={rule}" for rule in FAULTS)),
            LIST + multipart(large, beside), limit_text="without faults", goal="8 s, nothing lost", part=64,
        ),
        Work(
            "slow-parts", f"one object of {tera / TIB:g} TiB, each part takes {SLOW_PART} s and its bytes", "copy-one",
            (*aws, one, "--part-latency", f"{round(SLOW_PART * 1000)}ms"),
            HEAD + CREATE + writes(8192 * scale) + SLOW_PART + 128 * MIB / SPEED + COMPLETE, goal="13 s", part=128,
        ),
        Work(
            "five", f"{number(1_500):,} objects of 1 KiB, 5 connections are served at once", "copy-many",
            ("--bucket", "copies", "--model", "aws", "--connections", "5", f"--object=s3://data/s/={number(1_500)}x1KiB"),
            LIST + number(1_500) * COPY / 5, goal="15 s", in_flight=8,
        ),
        Work(
            "ramp", f"{small:,} small, the rates begin at 1/8 and double every {period:g} s", "copy-many",
            (*aws, few, "--ramp", f"1/8:{round(period * 1000)}ms"),
            LIST + ramped(small, period, 1 / 8) + COPY + mean / SPEED, goal="26 s, < 3 % throttled",
            unit=(small, "object"),
        ),
        Work(
            "sync", f"{pairs:,} keys, all in place", "sync", in_place(pairs)[1], in_place(pairs)[0],
            limit_text=f"all lists at once; one after the other they take {serial:.0f} s for each side",
            goal="10 s, 64 MiB", unit=(pairs, "key"),
        ),
        Work(
            "sync-10m", f"{10 * pairs:,} keys, all in place", "sync", in_place(10 * pairs)[1],
            in_place(10 * pairs)[0], goal="the memory of a tenth, ± 10 %", unit=(10 * pairs, "key"),
            clients=("s3haul",),
        ),
        Work(
            "cpu", f"{thousand:,} objects of 1 KiB, no latency, no limits", "copy-many",
            (*instant, f"--object=s3://data/s/={thousand}x1KiB"), goal="200 µs of CPU per object",
            unit=(thousand, "object"), in_flight=256,
        ),
        Work(
            "up", f"{4 * scale:g} GiB file up, no latency", "upload-file", uploads,
            goal="1.2 times the best peer's speed, 0.8 of its CPU", unit=(4 * scale, "GiB"),
            files=(1, int(4 * GIB * scale)), part=64, in_flight=16,
        ),
        Work(
            "up-small", f"{number(5_000):,} files of 16 KiB up, no latency", "upload-files", uploads,
            goal="ahead of every peer", unit=(number(5_000), "file"), files=(number(5_000), 16 * KIB),
            in_flight=64, part=8,
        ),
    ]
    for in_flight, goal in ((512, "100 MiB"), (2048, "200 MiB")):
        rows.append(Work(
            f"memory-{in_flight}", f"one object of {tera / TIB:g} TiB, {in_flight:,} in flight", "copy-one",
            (*aws, one), multipart([tera], 0, in_flight), goal=goal, in_flight=in_flight, capped=True,
        ))
    rows.append(Work("start", "from the start to the first request", "start", goal="50 ms"))
    return rows
