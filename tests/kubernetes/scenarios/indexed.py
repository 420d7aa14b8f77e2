"""The overlays of Indexed Jobs: one run by many pods, which are evicted all the time.

`.ci/run` runs the small version, with 12,000 objects in 16 shards; `.ci/soak` the full one, with 200,000 objects and
four of 200 GiB in 64 shards.
"""

import os
import signal
import time
import urllib.error

from harness.checks import equal
from harness.overlay import Overlay
from harness.runner import scenario
from harness.shards import Interruptions, Run
from harness.world import has_failed, name_of, terminated, waiting

from .interrupted import is_alive, urgent_pod
from .nights import in_job_pod, in_pod

FULL = bool(os.environ.get("S3HAUL_FULL"))
# The small version has no large objects, which cause two thirds of the requests of the full one.
OBJECTS = ["small/=200000x4KiB", *(f"large/{number}=200GiB" for number in range(4))] if FULL else ["small/=12000x4KiB"]
SHARDS, PODS = (64, 8) if FULL else (16, 4)
JOB = "lake-1"
# Limits that keep the run slow enough on any machine: each interruption finds work left.
REQUESTS, IN_FLIGHT = (2000, 256) if FULL else (600, 64)


def slow(manifest):
    manifest["limits"] = {"requests_per_second": REQUESTS, "in_flight": IN_FLIGHT}


class Evictions(Interruptions):
    """Evicts a random pod of a Job every few seconds, except on spared nodes."""

    def __init__(self, world, job, every):
        super().__init__(every, self._evictable, self._evict)
        self.world, self.job = world, job
        # Names of the nodes whose pods are not evicted.
        self.spared = set()

    def _evictable(self):
        pods = [pod for pod in self.world.pods(self.job) if is_running(pod)]
        return [name_of(pod) for pod in pods if pod["spec"]["nodeName"] not in self.spared]

    def _evict(self, pod):
        try:
            self.world.evict(pod)
        except urllib.error.HTTPError as error:
            # The pod has already ended.
            assert error.code in (404, 409), error
            return False
        return True


def is_running(pod):
    return not pod["deleted"] and not pod["metadata"].get("deletionTimestamp") and pod["status"].get("phase") == "Running"


def ends(world, pods):
    """Waits until all of these pods have ended, and returns their exit codes. A pod's last status may arrive after its
    Job's."""

    def ended():
        states = [terminated(pod) for pod in pods()]
        return None not in states and [state["exitCode"] for state in states]

    return world.wait(ended, "the pods have ended")


def conditions_of(pod):
    return {each["type"]: each for each in pod["status"].get("conditions", [])}


def index_of(pod):
    return int(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"])


def begin(world, overlay, manifest=slow, objects=OBJECTS, shards=SHARDS, pods=PODS):
    world.server.start_with_many(objects)
    return Overlay(world, overlay, shards, pods, manifest)


def run_of(world, job, name="lake", shards=SHARDS):
    def wait(condition, what, timeout):
        return world.poll(condition, what, timeout)

    return Run(world.server, f"s3haul/{name}/{job}/", shards, wait)


@scenario
def indexed_job(world):
    """One run whose pods wait for a Secret, are evicted, suspended, and resized, and lose the controller manager and a
    node."""
    world.keep_on_own_nodes(4, cpu="2")
    overlay = begin(world, "indexed-job")
    run = run_of(world, JOB)

    # The Secret is missing: the pods wait, and their status names it.
    overlay.apply()
    state = ("CreateContainerConfigError", 'secret "s3haul-credentials" not found')
    world.wait(lambda: [waiting(pod) for pod in world.pods(JOB)] == [state] * PODS, "all pods report the missing Secret")
    index = PODS
    start_with(world, run, lambda: hold(run, index))
    with run.watched() as looks, Evictions(world, JOB, every=2) as evictions:
        run.wait_for_copies(0.05)
        suspend_and_resume(world, run, overlay)
        kill_the_controller_manager(world, evictions)
        lost, old = lose_the_node(world, index, evictions)
        # P changes while the index of the lost pod waits for the pod garbage collector.
        for pods in (PODS // 2, PODS):
            overlay.resize(pods)
            world.wait(lambda: len(active(world)) <= overlay.pods, f"at most {pods} pods are active")
        second = lambda: [pod for pod in world.pods(JOB) if index_of(pod) == index and is_running(pod) and name_of(pod) != lost]
        world.wait(second, f"index {index} has a second pod", timeout=240)
        assert is_alive(old), "the old process ended before the new one started"
        world.server.forget_rules()
        equal(world.wait_for_end(JOB, timeout=420 if not FULL else 3600), ("Complete", "CompletionsReached"), "the end of the Job")
    until = time.monotonic() + 60
    while is_alive(old):
        assert time.monotonic() < until, "the old process is still running without the journal"
        time.sleep(0.5)
    assert evictions.count >= 5, f"only {evictions.count} evictions"
    codes = {code for code in world.exit_codes(JOB)} - {None}
    equal(codes <= {0, 4, 137}, True, f"exit codes {codes}")
    again = run.assert_whole(in_flight=evictions.count * IN_FLIGHT // PODS)
    print(f"        indexed_job: {evictions.count} evictions, {again} objects copied again, {len(looks.looks)} looks", flush=True)


def start_with(world, run, rules):
    """Creates the Secret for which the pods wait. The rules depend on the plan, so copies are delayed until the rules
    are in place."""
    slowly = world.server.rules([{"operation": "CopyObject", "effect": {"delay": "3s"}}])
    world.create_secret()
    run.wait_for_plan()
    world.server.rules(rules())
    world.server.forget_rules(slowly)


def hold(run, index):
    """Returns rules that keep a shard from ending: they throttle its last key."""
    return [{"operation": "CopyObject", "prefix": run.keys(index)[-1], "effect": "throttle"}]


def active(world):
    return [pod for pod in world.pods(JOB) if not pod["deleted"] and pod["status"].get("phase") in ("Pending", "Running")
            and not pod["metadata"].get("deletionTimestamp")]


def suspend_and_resume(world, run, overlay):
    world.kubectl("patch", "job", JOB, "--patch", '{"spec": {"suspend": true}}')
    world.wait(lambda: all(pod["deleted"] for pod in world.pods(JOB) if not terminated(pod)), "a suspended Job has no pod")
    # A process that gets SIGTERM before it can handle it is killed later, and its sign of life ages for a minute.
    is_waiting = lambda: (lambda status: (status["state"], status["shards"]["running"]))(run.status()) == ("waiting", 0)
    world.poll(is_waiting, "the status of a suspended run", 90 if 137 in world.exit_codes(JOB) else 1)
    world.kubectl("patch", "job", JOB, "--patch", '{"spec": {"suspend": false}}')
    world.wait(lambda: len(active(world)) == overlay.pods, "the pods are back")


def kill_the_controller_manager(world, evictions):
    """Kills the controller manager for a while. Evicted pods are replaced only after it is back."""
    with world.cluster.without_controller_manager():
        count = evictions.count
        is_over = lambda: evictions.count > count + 1 or not any(map(is_running, world.pods(JOB)))
        world.poll(is_over, "two more evictions, or no running pod", 60)


def lose_the_node(world, index, evictions):
    """Stops the kubelet of the node that runs the index, and deletes the Node. The pod's process keeps running. Returns
    the name of the pod and the pid of its process."""
    pods = lambda: [pod for pod in world.pods(JOB) if is_running(pod) and index_of(pod) == index]
    pod = world.wait(pods, f"index {index} runs", timeout=300)[0]
    node = pod["spec"]["nodeName"]
    evictions.spared.add(node)
    old = world.pid(name_of(pod))
    world.cluster.kubelet(node).send_signal(signal.SIGSTOP)
    world.cluster.kubectl("delete", "node", node)
    return name_of(pod), old


@scenario
def indexed_cronjob(world):
    """A run of the CronJob's overlay: one shard fails for good, the others complete, and `retry` copies what has
    failed."""
    overlay = begin(world, "indexed-cronjob")
    overlay.apply()
    job = world.run_now()
    run = run_of(world, job, "nightly-replica")
    index = SHARDS // 2
    answer = {"answer": {"status": 403, "code": "AccessDenied"}}
    start_with(world, run, lambda: [{"operation": "CopyObject", "key": run.keys(index)[-1], "effect": answer}])
    refused = run.keys(index)[-1]
    with run.watched() as looks, Evictions(world, job, every=2) as evictions:
        equal(world.wait_for_end(job, timeout=300 if not FULL else 3600), ("Failed", "FailedIndexes"), "the end of the Job")
    counts = lambda pod: index_of(pod) == index and "DisruptionTarget" not in conditions_of(pod)
    equal(ends(world, lambda: filter(counts, world.pods(job))), [1] * 4, "exit codes of the failing shard, without evictions")
    equal(sorted(run.those("failed")), [index], "shards that failed")
    equal(sorted(run.those("done")), [each for each in range(SHARDS) if each != index], "shards that are done")
    receipts = [receipt for receipt in run.receipts(exit_code=1) if receipt["destination"].endswith(refused)]
    equal(len(receipts), 1, "receipts of the object that failed")
    world.server.forget_rules()
    in_pod(world, "s3haul-retry", "retry", run.url)
    equal(world.wait_for_end("s3haul-retry"), ("Complete", "CompletionsReached"), "the end of the retry")
    equal(ends(world, lambda: world.pods("s3haul-retry")), [0], "exit codes of the retry")
    again = run.assert_whole(in_flight=evictions.count * IN_FLIGHT // PODS, failed=[index])
    print(f"        indexed_cronjob: {evictions.count} evictions, {again} objects copied again, {len(looks.looks)} looks", flush=True)


@scenario
def indexed_job_preempted(world):
    """The scheduler preempts one of the Job's pods for a pod with a higher priority. The rule `Ignore` keeps the index:
    its next pod waits for room, and resumes the shard."""
    # Just enough room for all pods of the Job.
    world.keep_on_own_nodes(1, cpu=str(PODS // 2))
    overlay = begin(world, "indexed-job", objects=["small/=2000x4KiB"], shards=8)
    run = run_of(world, JOB, shards=8)
    overlay.apply()
    start_with(world, run, lambda: [rule for index in range(PODS) for rule in hold(run, index)])
    with run.watched(every=1):
        run.wait_for_copies(0.1)
        world.wait(lambda: sum(map(is_running, world.pods(JOB))) == PODS, "the node is full")
        with urgent_pod(world, cpu="400m"):
            first = world.wait(lambda: [pod for pod in world.pods(JOB) if terminated(pod)], "a pod has ended")[0]
            equal(conditions_of(first)["DisruptionTarget"]["reason"], "PreemptionByScheduler", "reason of the disruption")
            equal(terminated(first)["exitCode"], 4, "exit code")
            pods = lambda: [pod for pod in world.pods(JOB) if index_of(pod) == index_of(first)]
            second = world.wait(lambda: pods()[1:], "the index has a second pod")[0]
            equal(second["status"]["phase"], "Pending", "phase of the second pod")
            world.poll(lambda: run.status()["shards"]["stopped"] == 1, "status shows the shard as stopped", 60)
        world.server.forget_rules()
        equal(world.wait_for_end(JOB, timeout=240), ("Complete", "CompletionsReached"), "the end of the Job")
    equal(sorted(ends(world, lambda: world.pods(JOB))), [0] * 8 + [4], "exit codes")
    equal(ends(world, pods), [4, 0], "exit codes of the index")
    status = world.job(JOB)["status"]
    assert not status.get("failed") and not status.get("failedIndexes"), f"the preemption counts as a failure: {status}"
    run.assert_whole(in_flight=IN_FLIGHT // PODS)


@scenario
def indexed_job_with_a_wrong_manifest(world):
    """Exit code 2: the Job fails at once if the manifest is wrong from the start, and if it no longer matches that of
    the run. With the right manifest, a Job of the same name resumes the run."""
    overlay = begin(world, "indexed-job", objects=["small/=2000x4KiB"], shards=8, pods=2)
    run = run_of(world, JOB, shards=8)
    world.create_secret()
    overlay.edit_manifest("transfers:", "transfer:")
    fails(world, overlay, "transfer")
    equal(run.record("plan.json"), None, "a plan")

    overlay.edit_manifest("transfer:", "transfers:")
    world.server.rules([{"operation": "CopyObject", "prefix": "small/8", "effect": {"delay": "1s"}}])
    again(world, overlay)
    world.poll(lambda: len(run.those("done")) >= 2, "two shards are done", 120)
    overlay.edit_manifest("tmp/**", "tmp/*")
    fails(world, overlay, "tmp/*")

    overlay.edit_manifest("tmp/*", "tmp/**")
    world.server.forget_rules()
    again(world, overlay)
    equal(world.wait_for_end(JOB, timeout=240), ("Complete", "CompletionsReached"), "the end of the Job")
    run.assert_whole(in_flight=2 * IN_FLIGHT)
    in_job_pod(world, overlay, "lake-1-verify", "verify", "--report", run.url)
    equal(world.wait_for_end("lake-1-verify"), ("Complete", "CompletionsReached"), "the end of the verification")

    # Kubernetes refuses to change N, and another run in the namespace has its own P. Neither changes P for the pods of
    # this run.
    size = lambda: world.kubectl("get", "configmap", JOB, "--output=jsonpath={.data}")
    before = size()
    overlay.set("completions", 16)
    try:
        overlay.apply()
    except AssertionError as error:
        assert "immutable" in str(error) or "in tandem" in str(error), error
    else:
        raise AssertionError("N was changed")
    equal(size(), before, "P of the run after a refused edit")
    overlay.set("completions", 8)
    overlay.set("parallelism", 4)
    overlay.rename(JOB, "lake-2")
    overlay.apply()
    equal(size(), before, "P of the run beside another one")
    equal(world.wait_for_end("lake-2", timeout=240), ("Complete", "CompletionsReached"), "the end of the other run")


def again(world, overlay):
    """Deletes the Job with all its pods and applies the overlay again, as deploy/README.md says."""
    world.kubectl("delete", "job", JOB, "--cascade=foreground", "--ignore-not-found")
    overlay.apply()
    world.wait(lambda: world.job(JOB) and not world.job(JOB)["deleted"], "there is a Job")


def fails(world, overlay, cause):
    again(world, overlay)
    world.wait(lambda: has_failed(world.job(JOB)), "the Job has failed")
    conditions = {each["type"]: each.get("reason") for each in world.job(JOB)["status"]["conditions"]}
    equal(conditions["Failed"], "PodFailurePolicy", "the reason of the end")
    uid = world.job(JOB)["metadata"]["uid"]
    ended = [terminated(pod) or {} for pod in world.pods(JOB)
             if pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] == uid]
    told = [each for each in ended if each.get("exitCode") == 2]
    assert told and cause in told[0]["message"], ended
