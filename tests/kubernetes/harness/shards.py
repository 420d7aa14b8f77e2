"""A run in shards, seen from outside: its state prefix, `s3haul status`, and `report merge`; and the checks that every
such run must pass, on each engine (tests/slurm uses this module too)."""

import contextlib
import datetime
import json
import random
import threading
import time

from .checks import equal
from .server import DESTINATION, OPS, SOURCE


class Run:
    """The run whose state is below `prefix` of the bucket for operations."""

    def __init__(self, server, prefix, shards, wait):
        """`wait(condition, what, timeout)` is the engine's way to wait. It gives up when the run fails."""
        self.server = server
        self.prefix = prefix
        self.url = f"s3://{OPS}/{prefix}"
        self.shards = shards
        self.wait = wait

    # The records below the state prefix, as docs/operations.md describes them.

    def record(self, name):
        """Returns an object of the state as parsed JSON, or None if it does not exist."""
        client = self.server.client()
        try:
            return json.load(client.get_object(Bucket=OPS, Key=self.prefix + name)["Body"])
        except client.exceptions.NoSuchKey:
            return None

    def those(self, kind):
        """Returns the indices of the shards that have a record of this kind: live, done, or failed."""
        keys = self.server.objects(OPS, f"{self.prefix}{kind}/")
        return {int(key.rpartition("/")[2].removesuffix(".json")) for key in keys}

    def wait_for_copies(self, share, timeout=300):
        """Waits until the processes have requested copies of this share of the run's objects."""
        objects = self.record("plan.json")["weight"]["objects"]
        self.wait(lambda: self.server.copies() >= share * objects, f"copies of {share:.0%} of the objects", timeout)

    def wait_for_plan(self, timeout=120):
        return self.wait(lambda: self.record("plan.json"), "a plan", timeout)

    def ranges(self, index):
        """Returns the pairs (after, until) of a shard. None stands for the first or the last key."""
        return [(each.get("after"), each.get("until")) for each in self.record("plan.json")["shards"][index]["ranges"]]

    def keys(self, index):
        """Returns the keys of the source that belong to a shard, in order."""
        inside = lambda key, after, until: (after is None or key > after) and (until is None or key <= until)
        ranges = self.ranges(index)
        return sorted(key for key in self.server.objects(SOURCE) if any(inside(key, *pair) for pair in ranges))

    def status(self):
        return json.loads(self.server.s3haul("status", self.url, "--json"))

    def receipts(self, exit_code=0):
        """Returns the receipts of the merged report. `report merge` exits with 1 while an object is failed."""
        file = self.server.directory / "merged.jsonl"
        file.unlink(missing_ok=True)
        self.server.s3haul("report", "merge", self.url, "--out", file, exit_code=exit_code)
        return [line for line in map(json.loads, file.read_text().splitlines()) if "destination" in line]

    @contextlib.contextmanager
    def watched(self, every=2.0):
        """Polls the status during the block, and asserts at the end that it was right each time."""
        looks = Looks(self, every)
        looks.start()
        try:
            yield looks
        finally:
            looks.stop()
        looks.assert_right()

    # Checks for the end of a run.

    def assert_whole(self, in_flight, failed=()):
        """All objects are at the destination, each written once, but for at most so many that were in flight when a process
        ended; the report has one receipt for each; and no upload is left. Shards that had failed were retried."""
        sources, copies = self.server.objects(SOURCE), self.server.objects(DESTINATION)
        equal(copies.keys() == sources.keys(), True, "the destination has the keys of the source")
        # The ETag of an object that was copied in parts is another one.
        unlike = [key for key in sources if copies[key] != sources[key]]
        unlike = [key for key in unlike if self.server.checksum(DESTINATION, key) != self.server.checksum(SOURCE, key)]
        equal(unlike, [], "objects with other bytes")
        equal(self.server.uploads(DESTINATION), [], "open uploads")
        writes = self.server.writes(DESTINATION)
        again = sum(writes.values()) - len(writes)
        assert again <= in_flight, f"{again} objects were copied again, and {in_flight} were in flight at interruptions"
        receipts = sorted(receipt["destination"] for receipt in self.receipts())
        equal(receipts == sorted(f"s3://{DESTINATION}/{key}" for key in sources), True, "there is one receipt for each object")
        done = [shard for shard in range(self.shards) if shard not in failed]
        equal(sorted(self.those("done")), done, "shards that are done")
        summary = self.record("summary.json")
        equal((summary["shards"], summary["done"]), (self.shards, len(done)), "summary.json")
        equal(sorted(map(int, summary.get("failed", {}))), sorted(failed), "failed in summary.json")
        return again


# Seconds for which a new process is spared. Without them, the last one might never get far enough to make progress.
BEGINS = 5


class Interruptions(threading.Thread):
    """Interrupts a process of a run every few seconds, chosen at random from those that have run for a while."""

    def __init__(self, every, running, interrupt):
        """`running()` returns the names of the processes that may be interrupted. A process that restarts under its old
        name must be missing from them in between. `interrupt(name)` returns False if the process has already ended."""
        super().__init__(daemon=True)
        self.every, self._running, self._interrupt = every, running, interrupt
        self.count = 0
        self._since = {}
        self._random = random.Random(19)
        self._stopped = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self.join()

    def run(self):
        due = time.monotonic() + self.every
        while not self._stopped.wait(0.5):
            now = time.monotonic()
            self._since = {name: self._since.get(name, now) for name in self._running()}
            old = sorted(name for name, since in self._since.items() if now - since > BEGINS)
            if old and now >= due:
                name = self._random.choice(old)
                self.count += self._interrupt(name)
                # A task of Slurm restarts under the same name.
                del self._since[name]
                due = now + self.every


def moment(text):
    return datetime.datetime.fromisoformat(text)


class Looks(threading.Thread):
    """Polls `s3haul status`, and compares each answer with the state's records before and after it."""

    def __init__(self, run, every):
        super().__init__(daemon=True)
        self.run_of_shards, self.every = run, every
        self.looks = []
        self.wrong = []
        self._stopped = threading.Event()

    def run(self):
        while not self._stopped.wait(self.every):
            try:
                self.look()
            except Exception as error:  # noqa: BLE001: `assert_right` reports it
                self.wrong.append(f"look {len(self.looks) + 1}: {error}")

    def look(self):
        run = self.run_of_shards
        if not run.record("plan.json"):
            return
        before = self._ended()
        status = run.status()
        after = self._ended()
        self.looks.append(status)
        self._check(before, status, after, len(run.server.objects(DESTINATION)))

    def _ended(self):
        """Maps each shard that is done, or that has failed, to the time of its end. The time is None if a process has
        restarted the shard since, because status then calls it `running`, `silent`, or `stopped`."""
        run = self.run_of_shards
        ended = {"done": dict.fromkeys(run.those("done"), ""), "failed": {}}
        for shard in run.those("failed"):
            end, live = run.record(f"failed/{shard}.json"), run.record(f"live/{shard}.json")
            begun_anew = live and moment(live["session"]) > moment(end["ended"])
            ended["failed"][shard] = None if begun_anew else end["ended"]
        return ended

    def _check(self, before, status, after, copied):
        """Checks an answer against the ended shards before and after it, and against the objects at the destination
        after it."""
        counts = dict(status["shards"])
        total = counts.pop("total")
        equal((total, sum(counts.values())), (self.run_of_shards.shards, total), f"shards in {status}")
        for kind in ("done", "failed"):
            # A shard counts for certain if it had the same end before and after. A failed one must also not be done by
            # then.
            same = {shard for shard, end in before[kind].items() if end is not None and after[kind].get(shard) == end}
            if kind == "failed":
                same -= after["done"].keys()
            most = before[kind].keys() | after[kind].keys()
            assert len(same) <= counts[kind] <= len(most), f"{before} and {after}, and status has {counts}"
        done = status["totals"]["done_objects"]
        assert done <= copied, f"status has {done} objects copied, and the destination has {copied}"

    def stop(self):
        self._stopped.set()
        self.join()

    def assert_right(self):
        """Polls once more, after all processes have ended, and compares the totals."""
        self.look()
        equal(self.wrong, [], "looks that went wrong")
        last = self.looks[-1]
        run = self.run_of_shards
        equal((last["state"], last["shards"]["running"]), ("ended", 0), "the last look")
        ends = [run.record(f"{kind}/{shard}.json") for kind in ("done", "failed") for shard in run.those(kind)]
        for count in ("done_objects", "failed_objects", "skipped_objects"):
            equal(last["totals"][count], sum(end["totals"][count] for end in ends), f"{count} of the last look")
