#!/usr/bin/env python3
"""Compares s3haul with other clients, on a sandbox with the latencies and limits of S3, or without any.

    cargo build --release --locked && python3 benches/versus

Each run has its own sandbox process, and counts only if the destination has all objects afterwards. Results are kept below
target/versus/, so rows can be run one by one. The program prints the table of all results so far and, at full scale, writes
it to benches/RESULTS.md.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

import process
from clients import CLIENTS, Unable, base
from work import MIB, works

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STATE = ROOT / "target" / "versus"
RESULTS = HERE.parent / "RESULTS.md"
VARIANTS = {"default": False, "tuned": True}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ",".join(work.name for work in works(1.0))
    parser.add_argument("--rows", help=f"run only these: {names}")
    parser.add_argument("--clients", help="run only these: " + ",".join(client.name for client in CLIENTS))
    parser.add_argument("--variants", default="default,tuned", help="default, tuned, or both (the default)")
    parser.add_argument("--scale", type=float, default=1.0, help="do this fraction of all work, for example 0.05")
    parser.add_argument("--limit", type=float, default=150, help="stop a client after this many seconds (150)")
    parser.add_argument("--runs", type=int, default=1, help="run each this many times and keep the fastest (1)")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "release" / "s3haul")
    parser.add_argument("--fresh", action="store_true", help="discard earlier results")
    parser.add_argument("--missing", action="store_true", help="run only what has no result yet")
    parser.add_argument("--show", action="store_true", help="run nothing, and print the table of the results")
    return parser.parse_args()


def install():
    """Installs the clients into a virtual environment and returns its directory. Installs again if requirements.txt changes or
    the checkout moves, because the scripts contain the path of their Python."""
    wanted, tools = HERE / "requirements.txt", STATE / "venv"
    marker = tools / "requirements.txt"
    is_made_of = f"# {tools}\n{wanted.read_text()}"
    if not marker.exists() or marker.read_text() != is_made_of:
        print("installing the clients …", file=sys.stderr)
        shutil.rmtree(tools, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tools], check=True)
        pip = [sys.executable, "-m", "pip", "--python", tools / "bin" / "python", "install", "--quiet"]
        only = ["--disable-pip-version-check", "--only-binary", ":all:"]
        subprocess.run([*pip, *only, "-r", wanted], check=True)
        marker.write_text(is_made_of)
    return tools


def files_of(work):
    """Returns the path of the files to upload, and creates them if they do not exist. Their bytes are random: no client gains by
    compressing them or by recognizing equal parts."""
    if work.files is None:
        return ""
    count, size = work.files
    place = STATE / "files" / f"{count}x{size}"
    if not place.exists():
        unfinished = place.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for index in range(count):
            with open(unfinished / f"{index:06}", "wb") as file:
                for _ in range(size // MIB):
                    file.write(os.urandom(MIB))
                file.write(os.urandom(size % MIB))
        unfinished.rename(place)
    # Reads the files into the page cache, so that the speed of the disk does not matter.
    for file in place.iterdir():
        with open(file, "rb") as bytes_of:
            while bytes_of.read(MIB):
                pass
    return str(place / "000000" if work.kind == "upload-file" else place)


def verdict(work, measured, seen):
    """Returns `ok`, or what is wrong with a run that ended in time."""
    held = {usage["bucket"]: usage for usage in seen["buckets"]}
    copies = held["copies"]
    if work.files:
        objects, size = work.files[0], work.files[0] * work.files[1]
    else:
        objects, size = held["data"]["objects"], held["data"]["bytes"]
    wrong = []
    if measured.exit != 0:
        wrong.append(f"exit {measured.exit}")
    if copies["objects"] != objects:
        wrong.append(f"{objects - copies['objects']:,} of {objects:,} objects missing")
    elif copies["bytes"] != size:
        wrong.append(f"{copies['bytes']:,} bytes instead of {size:,}")
    if copies["open_uploads"]:
        wrong.append(f"{copies['open_uploads']} uploads left open")
    if work.kind == "sync" and seen["calls"].keys() & {"CopyObject", "PutObject", "CreateMultipartUpload"}:
        wrong.append("wrote objects that were in place")
    return ", ".join(wrong) or "ok"


def run(work, client, tuned, limit, binary):
    """Runs a client once. Returns what the table shows."""
    files = files_of(work)
    with tempfile.TemporaryDirectory(prefix="versus-") as directory:
        sandbox = process.Sandbox(binary, work.sandbox)
        with sandbox:
            environment = base(sandbox.variables, directory)
            settings = client.prepare(work, tuned, environment)
            command = client.command(work, tuned, files, environment)
            measured = process.measure(command, environment, directory, limit)
    seen = sandbox.seen
    result = f"> {limit:g} s" if measured.stopped else verdict(work, measured, seen)
    if result != "ok":
        print(measured.output, file=sys.stderr)
    keys = (environment["AWS_SECRET_ACCESS_KEY"], environment["AWS_ENDPOINT_URL_S3"].removeprefix("http://"))
    shown = " ".join(command).replace(str(STATE), "…").replace(str(ROOT), ".")
    for secret, name in zip(keys, ("SECRET", "ENDPOINT")):
        shown = shown.replace(secret, name)
    if settings:
        shown += f" (with {settings})"
    return {
        "result": result,
        "seconds": measured.seconds,
        "cpu": measured.cpu,
        "memory": measured.memory,
        "requests": seen["requests"],
        "throttled": seen["throttled"],
        "most_in_flight": seen["most_in_flight"],
        "sandbox_cpu": sandbox.cpu,
        "command": shown,
    }


def start_up(work, client, limit):
    """Starts a client five times. Returns the median time until its first request."""
    with tempfile.TemporaryDirectory(prefix="versus-") as directory:
        def environment(url):
            variables = {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox-secret"}
            made = base({**variables, "AWS_ENDPOINT_URL_S3": url, "AWS_REGION": "us-east-1"}, directory)
            client.prepare(work, False, made)
            return made

        def command(url):
            return client.command(work, False, "", environment(url))

        times = [process.time_to_first_request(command, environment, directory, limit) for _ in range(5)]
        shown = " ".join(command("http://ENDPOINT")).replace(str(STATE), "…").replace(str(ROOT), ".")
    seconds = [seconds for seconds, _ in times if seconds is not None]
    if len(seconds) < len(times):
        return {"result": "sends no request", "command": shown}
    return {
        "result": "ok", "seconds": statistics.median(seconds), "cpu": statistics.median(cpu for _, cpu in times),
        "command": shown,
    }


def best(outcomes):
    """Returns the fastest of the correct runs or, if none is correct, the fastest."""
    good = [outcome for outcome in outcomes if outcome["result"] == "ok"]
    return min(good or outcomes, key=lambda outcome: outcome["seconds"]) | {"runs": len(outcomes)}


def cells(work, outcome):
    """Returns the cells of a run's row."""
    def of(key, text):
        return text(outcome[key]) if outcome.get(key) is not None else ""

    good = outcome["result"] == "ok"
    requests = outcome.get("requests") or 0
    unit = ""
    if work.unit and good:
        count, name = work.unit
        each = outcome["cpu"] / count
        unit = f"{each:.2f} s/{name}" if name == "GiB" else f"{each * 1e6:,.0f} µs/{name}"
    seconds = of("seconds", lambda value: f"{value * 1000:,.0f} ms" if work.kind == "start" else f"{value:.2f} s")
    return [
        seconds if good else "",
        f"{outcome['seconds'] / work.limit:.2f}" if work.limit and good else "",
        of("cpu", lambda value: f"{value:.2f} s"),
        unit,
        of("memory", lambda value: f"{value / MIB:,.0f} MiB"),
        of("requests", lambda value: f"{value:,}"),
        f"{100 * outcome['throttled'] / requests:.1f} %" if requests else "",
        of("most_in_flight", lambda value: f"{value:,}"),
        of("sandbox_cpu", lambda value: f"{value:.1f} s"),
        outcome["result"] + (f", fastest of {outcome['runs']}" if good and outcome.get("runs", 1) > 1 else ""),
    ]


HEAD = [
    "client", "flags", "time", "× limit", "CPU", "CPU for each", "peak memory", "requests", "throttled", "in flight",
    "sandbox's CPU", "result",
]


def table(rows, known):
    """Returns all results as one Markdown table."""
    lines = ["| work | " + " | ".join(HEAD) + " |", "|---" * (len(HEAD) + 1) + "|"]
    for work in rows:
        limit = f"limit {work.limit:.2f} s" + (f" ({work.limit_text})" if work.limit_text else "") if work.limit else ""
        title = "; ".join(text for text in (work.title, limit, f"goal {work.goal}" if work.goal else "") if text)
        for client in CLIENTS:
            for variant in VARIANTS:
                outcome = known.get(f"{work.name}/{client.name}/{variant}")
                unable = outcome is not None and "command" not in outcome
                if outcome is None or (unable and variant == "tuned"):
                    continue
                line = [title, client.name, variant, *cells(work, outcome)]
                lines.append("| " + " | ".join(line) + " |")
                title = ""
    return "\n".join(lines)


def summary(rows, known):
    """Returns a table with the limit, s3haul, and the fastest other client, by default and with its best flags, for each work."""
    lines = [
        "| work | limit | s3haul | fastest other, defaults | fastest other, best flags | goal |", "|---" * 6 + "|",
    ]
    for work in rows:
        def right(client, variant):
            outcome = known.get(f"{work.name}/{client.name}/{variant}")
            return outcome if outcome and outcome["result"] == "ok" else None

        def fastest(clients, variants):
            found = [(right(client, variant), client.name) for client in clients for variant in variants]
            outcome, name = min(
                ((outcome, name) for outcome, name in found if outcome), key=lambda pair: pair[0]["seconds"],
                default=(None, None),
            )
            return "none" if outcome is None else f"{cells(work, outcome)[0]} ({name})"

        if not any(key.startswith(f"{work.name}/") for key in known):
            continue
        ours = right(CLIENTS[0], "default")
        lines.append("| " + " | ".join([
            work.title,
            f"{work.limit:.2f} s" if work.limit else "",
            cells(work, ours)[0] if ours else "none",
            fastest(CLIENTS[1:], ["default"]),
            fastest(CLIENTS[1:], ["default", "tuned"]),
            work.goal,
        ]) + " |")
    return "\n".join(lines)


def machine():
    """Describes this machine."""
    with open("/proc/cpuinfo") as info:
        model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "unknown")
    with open("/proc/meminfo") as info:
        memory = int(next(line for line in info if line.startswith("MemTotal")).split()[1]) / (1 << 20)
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, {platform.system()} {platform.release()}"


def by_hand():
    """Returns the hand-written sections of benches/RESULTS.md: those between the summary and the table of all runs."""
    text = RESULTS.read_text() if RESULTS.exists() else ""
    begin, end = text.find("\n## "), text.find("\n## All runs")
    return text[begin + 1:end + 1] if 0 <= begin < end else ""


def document(rows, known, versions):
    """Returns the text of benches/RESULTS.md."""
    dates = sorted({outcome["date"] for outcome in known.values()})
    commands = [
        f"- `{key}`: `{outcome['command']}`" for key, outcome in known.items()
        if "command" in outcome and key.split("/")[2] == "tuned"
    ]
    return f"""# s3haul compared with other clients

Written by `python3 benches/versus` ({' to '.join(dict.fromkeys([dates[0], dates[-1]]))}). Every number is one run, unless the result says otherwise.

- Machine: {machine()}. Client and sandbox share it.
- Clients: {'; '.join(versions)}. All but s3haul come from PyPI; what is not there (s3sync,
  mc) is left out.
- The sandbox's model, unless a row says otherwise: lists 60 ms, HEAD 15 ms, Create 25 ms, copies 35 ms and their
  bytes at 80 MB/s, Complete 80 ms; 3,500 writes and 5,500 reads per second for each prefix, a quarter of a second of
  which may come at once. `limit` is the time of that model with the best part size and any number of requests in flight.
- `default` is the command without flags, `tuned` has the best known flags (below). `throttled` is what the sandbox
  answered with SlowDown; `sandbox's CPU` shows where it, and not the client, was the limit. Peak memory is the largest
  resident set; less than some 20 MiB can't be seen. `ok`: exit code 0, all objects and bytes there, no upload left open.

{summary(rows, known)}

{by_hand()}
## All runs

{table(rows, known)}

## Flags

{chr(10).join(commands)}
"""


def main():
    asked = arguments()
    rows = works(asked.scale)
    store = STATE / f"runs-{asked.scale:g}.json"
    known = json.loads(store.read_text()) if store.exists() and not asked.fresh else {}
    tools = install()
    clients = [client(asked.binary.resolve(), tools) for client in CLIENTS]

    def chosen(option, names):
        names = list(names)
        wanted = option.split(",") if option else names
        for name in wanted:
            if name not in names:
                sys.exit(f"{name} is not one of {', '.join(names)}")
        return wanted

    wanted_rows = chosen(asked.rows, (work.name for work in rows))
    wanted_clients = chosen(asked.clients, (client.name for client in clients))
    variants = chosen(asked.variants, VARIANTS)
    jobs = [
        (work, client, variant)
        for work in rows if work.name in wanted_rows and not asked.show
        for client in clients if client.name in wanted_clients
        if work.clients is None or client.name in work.clients
        for variant in variants
        # With a given number of requests in flight, s3haul runs only without further flags, and the others only with theirs.
        if not work.capped or (variant == "default") == (client.name == "s3haul")
        if not asked.missing or f"{work.name}/{client.name}/{variant}" not in known
    ]
    for work, client, variant in jobs:
        key, tuned = f"{work.name}/{client.name}/{variant}", VARIANTS[variant]
        try:
            if work.kind == "start":
                client.prepare(work, tuned, base({"AWS_ENDPOINT_URL_S3": "", "AWS_REGION": ""}, "/nonexistent"))
                outcome = start_up(work, client, asked.limit)
            else:
                outcome = best([
                    run(work, client, tuned, asked.limit, asked.binary) for _ in range(asked.runs)
                ])
        except Unable as reason:
            outcome = {"result": str(reason)}
        outcome["date"] = datetime.date.today().isoformat()
        known[key] = outcome
        store.write_text(json.dumps(known, indent=1))
        print(f"{key}: {' | '.join(cell for cell in cells(work, outcome) if cell)}", file=sys.stderr, flush=True)
    if not known:
        sys.exit("there are no results yet")
    print(table(rows, known))
    if asked.scale == 1.0:
        versions = []
        for client in clients:
            said = subprocess.run(client.version(), capture_output=True, text=True).stdout.strip().splitlines()
            first = said[0] if said else "?"
            versions.append(first if client.name in first else f"{client.name} {first}")
        git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
        versions[0] += f" ({subprocess.run(git, capture_output=True, text=True).stdout.strip() or 'no commit'})"
        RESULTS.write_text(document(rows, known, versions))
        print(f"\nwritten to {RESULTS.relative_to(ROOT)}", file=sys.stderr)


main()
