"""Scenarios of the job array of deploy/slurm. While it runs, tasks are requeued and the node's daemon is killed."""

import os

from harness.checks import equal
from harness.runner import scenario
from harness.shards import Interruptions

FULL = bool(os.environ.get("S3HAUL_FULL"))
OBJECTS = ["small/=200000x4KiB", *(f"large/{number}=200GiB" for number in range(4))] if FULL else ["small/=12000x4KiB"]
SHARDS, TASKS = (64, 8) if FULL else (16, 4)
REQUESTS, IN_FLIGHT = (2000, 256) if FULL else (600, 64)


def slow(manifest):
    manifest["limits"] = {"requests_per_second": REQUESTS, "in_flight": IN_FLIGHT}


class Requeues(Interruptions):
    """Requeues a random task every few seconds."""

    def __init__(self, world, every):
        super().__init__(every, lambda: world.with_state("RUNNING"), self._requeue)
        self.world = world

    def _requeue(self, index):
        # The task may have ended meanwhile; then scontrol fails.
        self.world.slurm.call("scontrol", "requeue", f"{self.world.array}_{index}", check=False)
        return True


@scenario
def array_interrupted(world):
    """One run whose tasks are requeued, lose slurmd, and get another limit of running tasks."""
    world.server.start_with_many(OBJECTS)
    world.edit(SHARDS, TASKS, slow)
    run = world.run()
    world.submit()
    run.wait_for_plan()
    with run.watched() as looks, Requeues(world, every=4) as requeues:
        run.wait_for_copies(0.1)
        with world.slurm.without_daemon():
            # Without slurmd, requeued tasks neither end nor start.
            count = requeues.count
            is_over = lambda: requeues.count >= count + 2 or not world.with_state("RUNNING")
            world.poll(is_over, "two more requeues, or no running task", 60)
        run.wait_for_copies(0.4)
        # P is halved: at most that many tasks run, and tasks that start get a share of the limits for that many.
        world.resize(TASKS // 2)
        world.poll(lambda: len(world.with_state("RUNNING")) <= TASKS // 2, f"at most {TASKS // 2} running tasks", 60)
        world.poll(lambda: IN_FLIGHT // (TASKS // 2) in world.shares(), f"a task that starts with the share of {TASKS // 2}", 60)
        world.resize(TASKS)
        states = world.wait_for_end(3600 if FULL else 600)
    equal(states, {index: "COMPLETED" for index in range(SHARDS)}, "states of the tasks")
    assert requeues.count >= 5, f"only {requeues.count} tasks were requeued"
    again = run.assert_whole(in_flight=requeues.count * IN_FLIGHT // (TASKS // 2))
    print(f"        array_interrupted: {requeues.count} requeues, {again} objects copied again, {len(looks.looks)} looks", flush=True)


@scenario
def array_with_a_wrong_manifest(world):
    """Exit code 2: tasks that have not started are canceled. The corrected manifest runs under the same name. A
    manifest that changes after that is refused."""
    world.server.start_with_many(["small/=1000x4KiB"])
    world.edit(8, 2)
    manifest = world.directory / "job.yaml"
    right = manifest.read_text()
    manifest.write_text(right.replace("transfers:", "transfer:"))
    run = world.run()
    world.submit()
    states = world.wait_for_end(60)
    assert "FAILED" in states.values(), states
    equal(set(states.values()) <= {"FAILED", "CANCELLED"}, True, f"states of the tasks: {states}")
    equal(run.record("plan.json"), None, "a plan")

    manifest.write_text(right)
    world.submit()
    states = world.wait_for_end(120)
    equal(states, {index: "COMPLETED" for index in range(8)}, "states of the tasks")
    run.assert_whole(in_flight=0)

    manifest.write_text(right.replace("tmp/**", "tmp/*"))
    world.submit()
    states = world.wait_for_end(60)
    assert "FAILED" in states.values() and "COMPLETED" not in states.values(), states
    log = "".join(path.read_text() for path in world.directory.glob("*.log"))
    assert "tmp/*" in log, log[-2000:]
