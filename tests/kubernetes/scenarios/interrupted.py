"""The pod is taken away in mid-run."""

import os
import signal

from harness.runner import scenario
from harness.world import equal, terminated

from .nights import journal_in_s3


def half_done(world, **deploy):
    """A run that has copied the 30 objects of a/ and is refused those of b/. Returns the Job and its pod."""
    world.start_server(a=30, b=30)
    world.server.rules([{"operation": "CopyObject", "prefix": "b/", "effect": "throttle"}])
    world.create_secret()
    world.deploy(**deploy)
    job = world.run_now()
    pod = world.wait_for_running(job)
    world.wait_for_objects(30)
    return job, pod


def completes(world, job, exit_codes):
    world.server.forget_rules()
    world.assert_ended(job, "Complete", "CompletionsReached", exit_codes)
    world.assert_replica()


@scenario
def evicted(world):
    """The Eviction API, which `kubectl drain` uses: SIGTERM, exit code 4, and the next pod goes on from the journal."""
    job, pod = half_done(world, job=journal_in_s3)
    world.evict(pod)
    completes(world, job, [4, 0])
    conditions = {each["type"]: each for each in world.pods(job)[0]["status"]["conditions"]}
    equal(conditions["DisruptionTarget"]["reason"], "EvictionByEvictionAPI", "reason of the disruption")
    assert not world.job(job)["status"].get("failed"), "an eviction does not count"


@scenario
def evicted_without_a_journal(world):
    """The base as it is: the next pod lists both sides again."""
    job, pod = half_done(world)
    world.evict(pod)
    completes(world, job, [4, 0])


@scenario
def drained(world):
    """`kubectl drain`, with the flags that docs/operations.md names."""
    label = f"for={world.namespace}"
    for number in range(2):
        world.cluster.add_node(f"drained-{number}", label)
    toleration = {"key": "for", "operator": "Equal", "value": world.namespace, "effect": "NoSchedule"}
    job, _ = half_done(
        world, job=journal_in_s3, pod={"nodeSelector": {"for": world.namespace}, "tolerations": [toleration]}
    )
    node = world.pods(job)[0]["spec"]["nodeName"]
    world.cluster.kubectl("drain", node, "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=60s")
    completes(world, job, [4, 0])
    assert world.pods(job)[1]["spec"]["nodeName"] != node, "the second pod is elsewhere"


@scenario
def deleted_with_a_short_grace(world):
    job, pod = half_done(world, job=journal_in_s3)
    world.kubectl("delete", "pod", pod, "--grace-period=5")
    completes(world, job, [4, 0])


@scenario
def killed(world):
    """SIGKILL, as the kernel does when memory is short: 137, which counts, and the next pod goes on."""
    job, pod = half_done(world, job=journal_in_s3)
    os.kill(world.pid(pod), signal.SIGKILL)
    completes(world, job, [137, 0])
    equal(world.job(job)["status"]["failed"], 1, "failed pods")


@scenario
def out_of_memory(world):
    """A limit that the program cannot keep: OOMKilled, up to backoffLimit."""
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
    """activeDeadlineSeconds: the pod gets SIGTERM, the Job fails, and the next night completes it."""
    job, _ = half_done(world, job=journal_in_s3, job_spec={"activeDeadlineSeconds": 15})
    world.assert_ended(job, "Failed", "DeadlineExceeded", [4])
    next_night = world.run_now("s3haul-next-night")
    completes(world, next_night, [0])


@scenario(EXPECTED_TO_FAIL="K1: a stop waits for the journal as long as `patience`, so the kubelet kills it: 137", WITH="found    137")
def server_dies_then_evicted(world):
    """The server is dead, and the pod must go: within the grace period, with exit code 4."""
    job, pod = half_done(world, job=journal_in_s3)
    world.server.process.kill()
    world.evict(pod)
    world.wait(lambda: terminated(world.pods(job)[0]), "the pod has ended")
    equal(world.exit_codes(job)[0], 4, "exit code")
