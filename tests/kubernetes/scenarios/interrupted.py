"""Pods, nodes, servers, and control planes that are lost in the middle of a run."""

import contextlib
import json
import os
import signal
import time

from harness.build import IMAGE
from harness.runner import scenario
from harness.world import equal, name_of, terminated

from .nights import journal_in_s3


def half_done(world, **deploy):
    """Starts a run that cannot complete: it copies the 30 objects of a/, and those of b/ are throttled. Waits for the
    copies. Returns the Job and its pod."""
    world.start_server(a=30, b=30)
    world.server.rules([{"operation": "CopyObject", "prefix": "b/", "effect": "throttle"}])
    world.create_secret()
    world.deploy(**deploy)
    job = world.run_now()
    pod = world.wait_for_running(job)
    world.wait_for_objects(30)
    return job, pod


def completes(world, job, exit_codes, **report):
    world.server.forget_rules()
    world.assert_ended(job, "Complete", "CompletionsReached", exit_codes)
    world.assert_replica(**report)


@scenario
def evicted(world):
    """Eviction, as by `kubectl drain`: the pod gets SIGTERM and exits with 4, and the next one resumes from the
    journal."""
    job, pod = half_done(world, job=journal_in_s3)
    world.evict(pod)
    completes(world, job, [4, 0])
    conditions = {each["type"]: each for each in world.pods(job)[0]["status"]["conditions"]}
    equal(conditions["DisruptionTarget"]["reason"], "EvictionByEvictionAPI", "reason of the disruption")
    assert not world.job(job)["status"].get("failed"), "the eviction counts as a failure"


@scenario
def evicted_without_a_journal(world):
    """Without a journal, the next pod lists both sides again."""

    def without(manifest):
        manifest["journal"] = "none"

    job, pod = half_done(world, job=without)
    world.evict(pod)
    completes(world, job, [4, 0])


@scenario
def drained(world):
    """`kubectl drain`, with the flags that docs/operations.md names."""
    _, on_own_nodes = world.own_nodes(2)
    job, _ = half_done(world, job=journal_in_s3, pod=on_own_nodes)
    node = world.pods(job)[0]["spec"]["nodeName"]
    world.cluster.kubectl("drain", node, "--ignore-daemonsets", "--timeout=60s")
    completes(world, job, [4, 0])
    assert world.pods(job)[1]["spec"]["nodeName"] != node, "the second pod is on the drained node"


@scenario
def deleted_with_a_short_grace(world):
    job, pod = half_done(world, job=journal_in_s3)
    world.kubectl("delete", "pod", pod, "--grace-period=5")
    completes(world, job, [4, 0])


@scenario
def killed(world):
    """SIGKILL, as when the kernel runs out of memory: exit code 137 counts as a failure, and the next pod resumes."""
    job, pod = half_done(world, job=journal_in_s3)
    os.kill(world.pid(pod), signal.SIGKILL)
    completes(world, job, [137, 0])
    equal(world.job(job)["status"]["failed"], 1, "failed pods")


@scenario
def out_of_memory(world):
    """The memory limit is below what the program needs: pods are OOMKilled until backoffLimit is reached."""
    small = {"resources": {"requests": {"memory": "4Mi"}, "limits": {"memory": "4Mi"}}}
    world.start_server(a=30)
    world.server.rules([{"operation": "CopyObject", "effect": "throttle"}])
    world.create_secret()
    world.deploy(container=small)
    job = world.run_now()
    world.assert_ended(job, "Failed", "BackoffLimitExceeded", [137] * 4)
    equal([terminated(pod)["reason"] for pod in world.pods(job)], ["OOMKilled"] * 4, "reasons")


@scenario
def deadline_reached(world):
    """activeDeadlineSeconds passes: the pod gets SIGTERM, the Job fails, and the next run completes the work."""
    job, _ = half_done(world, job=journal_in_s3, job_spec={"activeDeadlineSeconds": 15})
    world.assert_ended(job, "Failed", "DeadlineExceeded", [4])
    next_night = world.run_now("s3haul-next-night")
    completes(world, next_night, [0])


@scenario
def sigterm_before_the_program_begins(world):
    """A program that gets SIGTERM before it handles signals exits with 143, unless it is process 1, which ignores the
    signal. 143 counts as a failure, unless the pod was evicted."""
    # Because of LD_PRELOAD, the dynamic loader opens this FIFO, and waits for a writer before the program starts.
    hold = world.cluster.images / IMAGE / "rootfs" / world.namespace
    os.mkfifo(hold, 0o644)
    hold.chmod(0o644)
    environment = [
        {"name": "AWS_ENDPOINT_URL_S3", "value": world.server.url}, {"name": "LD_PRELOAD", "value": f"/{hold.name}"},
    ]
    world.start_server()
    world.create_secret()
    world.deploy(container={"env": environment}, pod={"shareProcessNamespace": True})
    job = world.run_now()
    held = lambda number: is_program(world.pid(world.wait_for_running(job, number)), "s3haul")
    world.wait(lambda: held(1), "the program of the first pod is about to start")
    os.kill(world.pid(name_of(world.pods(job)[0])), signal.SIGTERM)
    world.wait(lambda: held(2), "the program of the second pod is about to start")
    world.evict(name_of(world.pods(job)[1]))
    world.wait(lambda: held(3), "the program of the third pod is about to start")
    process = world.pid(name_of(world.pods(job)[2]))
    with open(f"/proc/{process}/root/{hold.name}", "w"):
        pass
    equal(world.wait_for_end(job), ("Complete", "CompletionsReached"), "the end of the Job")
    equal((world.exit_codes(job), world.job(job)["status"]["failed"]), ([143, 143, 0], 1), "exit codes and counted failures")
    world.assert_replica()


def is_program(pid, name):
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith(f"/{name}")
    except FileNotFoundError:
        return False


@scenario
def server_dies_then_evicted(world):
    """The pod is evicted while the server is down: it exits with 4 within the grace period."""
    job, pod = half_done(world, job=journal_in_s3)
    world.server.process.kill()
    world.evict(pod)
    world.wait(lambda: terminated(world.pods(job)[0]), "the pod has ended")
    equal(world.exit_codes(job)[0], 4, "exit code")
    world.assert_told(world.pods(job)[0])


@scenario
def server_away_in_the_middle(world):
    """The server resets all connections for 30 s: the run waits, logs that, and completes in the same pod."""
    world.start_server(a=60)
    world.server.rules([
        {"operation": "CopyObject", "effect": {"delay": "1s"}, "key": "00059"},
        {"from": "0s", "for": "30s", "effect": {"reset": "before"}},
    ])
    world.create_secret()
    world.deploy(job=journal_in_s3)
    job = world.run_now()
    world.assert_ended(job, "Complete", "CompletionsReached", [0])
    world.assert_in_log(job, "waiting for", '"event":"back"')
    world.assert_replica()


@scenario
def preempted(world):
    """The scheduler preempts the pod for one with a higher priority: it gets SIGTERM, which does not count as a
    failure, and the run resumes when there is room."""
    _, there = world.own_nodes(1, cpu="1")
    job, pod = half_done(world, job=journal_in_s3, pod=there)
    with urgent_pod(world, cpu="800m", **there):
        world.wait(lambda: terminated(world.pods(job)[0]), f"{pod} has ended")
        conditions = {each["type"]: each for each in world.pods(job)[0]["status"]["conditions"]}
        equal(conditions["DisruptionTarget"]["reason"], "PreemptionByScheduler", "reason of the disruption")
    completes(world, job, [4, 0])
    assert not world.job(job)["status"].get("failed"), "the preemption counts as a failure"


@contextlib.contextmanager
def urgent_pod(world, cpu, **spec):
    """Runs a pod with a higher priority during the block."""
    urgent = f"urgent-{world.namespace}"
    world.cluster.kubectl("create", "priorityclass", urgent, "--value=1000")
    container = {"name": "urgent", "image": IMAGE, "args": ["sandbox"], "resources": {"requests": {"cpu": cpu}}}
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "urgent"},
        "spec": {"restartPolicy": "Never", "priorityClassName": urgent, "containers": [container], **spec},
    }
    world.kubectl("apply", "-f", "-", input=json.dumps(pod))
    yield
    world.kubectl("delete", "pod", "urgent", "--grace-period=1")


@scenario
def controller_manager_killed(world):
    """The pod is evicted while the controller manager is down. The Job gets its next pod when the manager is back."""
    job, pod = half_done(world, job=journal_in_s3)
    with world.cluster.without_controller_manager():
        world.evict(pod)
        world.wait(lambda: terminated(world.pods(job)[0]), f"{pod} has ended")
    completes(world, job, [4, 0])


@scenario
def node_lost(world):
    """The kubelet stops while the process keeps running, and the Node is deleted, as docs/operations.md says. The pod
    garbage collector marks the pod as failed, the next pod takes over the journal, and the old process ends."""
    _, on_own_nodes = world.own_nodes(2)
    job, pod = half_done(world, job=journal_in_s3, pod=on_own_nodes)
    first = world.pods(job)[0]
    node, old = first["spec"]["nodeName"], world.pid(pod)
    kubelet = world.cluster.kubelet(node)
    kubelet.send_signal(signal.SIGSTOP)
    world.cluster.kubectl("delete", "node", node)
    world.wait_for_running(job, number=2, timeout=180)
    assert is_alive(old), "the old process ended before the new one started"
    world.server.forget_rules()
    equal(world.wait_for_end(job), ("Complete", "CompletionsReached"), "the end of the Job")
    equal(world.exit_codes(job)[1], 0, "exit code of the second pod")
    world.assert_replica()
    until = time.monotonic() + 60
    while is_alive(old):
        assert time.monotonic() < until, "the old process is still running without the journal"
        time.sleep(0.5)


def is_alive(pid):
    try:
        # The third field is the state. A stopped kubelet does not reap its children, so an ended process stays a zombie
        # (Z).
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
