"""The environment of one scenario: a namespace with `deploy/kubernetes` in it, and its own S3.

Scenarios act on the cluster with kubectl, as deploy/README.md says. They see the results through the watch, which also
knows deleted pods.
"""

import json
import os
import subprocess
import time

import yaml

from . import ROOT
from .build import IMAGE
from .checks import equal
from .processes import Processes
from .server import DESTINATION, KEYS, OPS, SOURCE, Server

NEVER = "0 0 1 1 *"


class World:
    def __init__(self, cluster, name):
        self.cluster = cluster
        self.namespace = name.replace("_", "-")
        self.directory = cluster.directory / "scenarios" / self.namespace
        self.directory.mkdir(parents=True)
        self.processes = Processes(self.directory)
        self.server = Server(self.processes, cluster.binary)
        self.kubectl("create", "namespace", self.namespace)

    def close(self):
        self.kubectl("delete", "namespace", self.namespace, "--wait=false", check=False)
        self.processes.close()

    def kubectl(self, *arguments, **options):
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, **options)

    def bash(self, script):
        """Runs a script from the documentation, with kubectl bound to this namespace."""
        script = f'kubectl() {{ command kubectl --namespace {self.namespace} "$@"; }}\n{script}'
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{script}\n{done.stderr}"

    # Actions of an operator.

    def start_server(self, **prefixes):
        """Starts the S3 with this many objects below each prefix of the source: `a=40` creates a/00000 to a/00039."""
        keys = [f"{prefix}/{number:05}" for prefix, count in (prefixes or {"a": 40}).items() for number in range(count)]
        self.server.start([SOURCE, DESTINATION, OPS], {key: 4096 for key in keys})

    def create_secret(self, **keys):
        literals = [f"--from-literal={name}={value}" for name, value in (keys or KEYS).items()]
        self.kubectl("create", "secret", "generic", "s3haul-credentials", *literals)

    def deploy(self, job=None, container=None, pod=None, job_spec=None, schedule=NEVER, components=()):
        """Applies deploy/kubernetes through an overlay that sets endpoint, image, and schedule. A scenario may add a
        function that edits the job manifest of deploy/, fields of the container, the pod, or the Job, and components of
        Kustomize."""
        self._write_overlay(job, container or {}, pod or {}, job_spec or {}, schedule, components)
        self.kubectl("apply", "-k", self.directory)

    def _write_overlay(self, job, container, pod, job_spec, schedule, components):
        environment = [{"name": "AWS_ENDPOINT_URL_S3", "value": self.server.url}]
        secret = [{"secretRef": {"name": "s3haul-credentials"}}]
        containers = [{"name": "s3haul", "env": environment, "envFrom": secret, **container}]
        template = {"spec": {"containers": containers, **pod}}
        patch = {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": "s3haul"},
            "spec": {"schedule": schedule, "jobTemplate": {"spec": {"template": template, **job_spec}}},
        }
        name, tag = IMAGE.split(":")
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.namespace,
            "resources": [self._relative("deploy/kubernetes")],
            "components": [self._relative(component) for component in components],
            "images": [{"name": "s3haul", "newName": name, "newTag": tag}],
            "patches": [{"patch": yaml.safe_dump(patch)}],
        }
        manifest = yaml.safe_load((ROOT / "deploy/kubernetes/job.yaml").read_text())
        # A journal and a report in S3 need a server that is known to honor If-None-Match.
        manifest["endpoints"]["default"]["provider"] = "aws"
        if job:
            job(manifest)
        (self.directory / "job.yaml").write_text(yaml.safe_dump(manifest))
        generator = {"name": "s3haul-job", "behavior": "replace", "files": ["job.yaml"]}
        kustomization["configMapGenerator"] = [generator]
        (self.directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))

    def _relative(self, path):
        """Returns the path relative to the overlay, because Kustomize refuses absolute ones."""
        return os.path.relpath(ROOT / path, self.directory.resolve())

    def run_now(self, name="s3haul-now"):
        self.kubectl("create", "job", "--from=cronjob/s3haul", name)
        return name

    def own_nodes(self, count, **resources):
        """Starts nodes for this scenario alone. Returns their names, and the fields that make a pod run on them."""
        label = f"for={self.namespace}"
        names = [f"{self.namespace}-{number}" for number in range(count)]
        for name in names:
            self.cluster.add_node(name, label, **resources)
        return names, {"nodeSelector": {"for": self.namespace}, "tolerations": [self._toleration()]}

    def _toleration(self):
        return {"key": "for", "operator": "Equal", "value": self.namespace, "effect": "NoSchedule"}

    def keep_on_own_nodes(self, count, **resources):
        """Starts nodes for this scenario, and makes the namespace run all its pods on them. Returns their names."""
        names, _ = self.own_nodes(count, **resources)
        scheduler = "scheduler.alpha.kubernetes.io"
        annotations = [
            f"{scheduler}/node-selector=for={self.namespace}",
            f"{scheduler}/defaultTolerations={json.dumps([self._toleration()])}",
        ]
        self.kubectl("annotate", "namespace", self.namespace, *annotations)
        return names

    def evict(self, pod):
        """Evicts a pod through the Eviction API, as `kubectl drain` does."""
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": self.namespace}}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        self.cluster.api.call(path, method="POST", body=eviction)

    # Results.

    def pods(self, job=None):
        """Returns all pods of a Job, including deleted ones, the oldest first."""
        label = "batch.kubernetes.io/job-name"
        found = self.cluster.watch.objects("pods", self.namespace)
        return [pod for pod in found if job in (None, pod["metadata"].get("labels", {}).get(label))]

    def job(self, name):
        """Returns the latest Job of this name, or None."""
        jobs = [job for job in self.cluster.watch.objects("jobs", self.namespace) if name_of(job) == name]
        return jobs[-1] if jobs else None

    def events(self):
        return [(each["reason"], each["message"]) for each in self.cluster.watch.objects("events", self.namespace)]

    def wait(self, condition, what, timeout=120):
        return self.cluster.watch.wait(condition, timeout, what)

    def wait_for_running(self, job, number=1, timeout=120):
        """Waits until the Job's nth pod is running, or has ended, and returns its name."""

        def running():
            pods = self.pods(job)
            if len(pods) < number or pods[number - 1]["status"].get("phase") in (None, "Pending"):
                return None
            return name_of(pods[number - 1])

        return self.wait(running, f"pod {number} of {job} runs", timeout)

    def wait_for_end(self, job, timeout=120):
        """Waits until a Job has ended. Returns its condition and reason, for example ("Complete",
        "CompletionsReached")."""

        def ended():
            conditions = (self.job(job) or {"status": {}})["status"].get("conditions", [])
            return next(
                ((each["type"], each.get("reason")) for each in conditions
                 if each["type"] in ("Complete", "Failed") and each["status"] == "True"),
                None,
            )

        return self.wait(ended, f"{job} ends", timeout)

    def wait_for_struck(self, count, timeout=60):
        """Waits until rules of the server have acted on this many calls."""
        self.poll(lambda: self.server.struck() >= count, f"{count} calls are struck", timeout)

    def wait_for_objects(self, count, bucket=DESTINATION, timeout=60):
        self.poll(lambda: len(self.server.objects(bucket)) >= count, f"{count} objects in {bucket}", timeout)

    def wait_for_log(self, pod, text, timeout=60):
        self.poll(lambda: text in self.kubectl("logs", pod, check=False), f"{text!r} in the log of {pod}", timeout)

    def poll(self, condition, what, timeout):
        """Waits for something that the watch cannot see, and returns it. Gives up if a Job fails."""
        until = time.monotonic() + timeout
        while not (found := condition()):
            jobs = self.cluster.watch.objects("jobs", self.namespace)
            if failed := [name_of(job) for job in jobs if has_failed(job) and not job["deleted"]]:
                raise AssertionError(f"{failed[0]} failed during the wait for: {what}")
            if self.cluster.watch.closed or time.monotonic() > until:
                raise AssertionError(f"waited {timeout} s for: {what}")
            time.sleep(0.3)
        return found

    def exit_codes(self, job):
        return [(terminated(pod) or {}).get("exitCode") for pod in self.pods(job)]

    def log(self, pod):
        """Returns the log of a pod: the archived one if the pod has ended, or else the one of the API server."""
        archived = self.cluster.archive / self.namespace / pod / "s3haul.log"
        return archived.read_text() if archived.exists() else self.kubectl("logs", pod)

    def log_of(self, job, number=1):
        return self.log(name_of(self.pods(job)[number - 1]))

    def pid(self, pod):
        """Returns the pid of a pod's process, as seen on this machine."""
        return int(self._of_kubelet(pod, "containers/s3haul/pid").read_text())

    def report(self, prefix="s3haul/nightly-replica/"):
        """Returns the lines of the latest report in S3: header, receipts, and footer. Each piece replaces everything
        behind the offset at which it begins."""
        keys = sorted(key for key in self.server.objects(OPS, f"{prefix}report-"))
        latest = keys[-1].rpartition("/")[0] if keys else "none"
        report = b""
        for key in keys:
            if key.startswith(f"{latest}/"):
                head, _, body = self.server.content(OPS, key).partition(b"\n")
                report = report[: json.loads(head)["at"]] + body
        return [json.loads(line) for line in report.splitlines()]

    def _of_kubelet(self, pod, path):
        found = next(each for each in self.pods() if name_of(each) == pod)
        node = self.cluster.node_directory(found["spec"]["nodeName"])
        return node / "pods" / found["metadata"]["uid"] / path

    def s3haul(self, *arguments):
        """Runs a command outside the cluster, as an engineer with the keys would, and returns its output, parsed as
        JSON."""
        return json.loads(self.server.s3haul(*arguments))

    # Assertions.

    def assert_ended(self, job, condition, reason, exit_codes):
        """Waits for the end of a Job. Asserts its condition and reason, one pod with each of these exit codes, and that
        each pod reports its cause as docs/logs.md promises."""
        ended = self.wait_for_end(job)
        # Pods end before their Job does, but their last status may arrive after the Job's.
        self.wait(lambda: None not in self.exit_codes(job), f"the pods of {job} have ended")
        equal((*ended, self.exit_codes(job)), (condition, reason, exit_codes), "condition, reason, and exit codes")
        for pod in self.pods(job):
            self.assert_told(pod)

    def assert_told(self, pod):
        """Asserts that each line of a pod's log is JSON, and that the pod's status has the cause if it failed."""
        name, state = name_of(pod), terminated(pod)
        # Other commands print results into the same stream, and those are not JSON objects.
        arguments = pod["spec"]["containers"][0]["args"]
        lines = [parsed(line) for line in self.log(name).splitlines()] if arguments[0] in ("run", "retry") else []
        message = state.get("message", "")
        if state["exitCode"] == 0:
            equal(message, "", f"termination message of {name}")
        elif state["exitCode"] < 128:
            assert 0 < len(message.encode()) <= 4096 and "\n" not in message, f"{name} says {message!r}"
            # An evicted pod may be deleted before kubectl can describe it.
            if described := self.kubectl("describe", "pod", name, check=False):
                assert message in described, "kubectl describe shows the cause"
            equal({line["level"] for line in lines} & {"ERROR", "WARN"} != set(), True, f"{name} has logged what is wrong")

    def message(self, job, number=1):
        """Returns the termination message of a Job's nth pod."""
        return terminated(self.pods(job)[number - 1]).get("message", "")

    def assert_replica(self, **report):
        """Asserts that the destination has each object of the source with its content, that the report has one receipt
        for each, and that no upload is left."""
        equal(self.server.objects(DESTINATION), self.server.objects(SOURCE), "objects at the destination")
        self.assert_no_uploads()
        self.assert_one_receipt_per_object(**report)

    def assert_no_uploads(self):
        equal(self.server.uploads(DESTINATION), [], "open uploads")

    def assert_in_log(self, job, *texts, number=1):
        log = self.log_of(job, number)
        for text in texts:
            assert text in log, f"{text!r} is not in the log:\n{log}"

    def assert_one_receipt_per_object(self, **options):
        head, *receipts, foot = self.report(**options)
        assert "report" in head and "footer" in foot, (head, foot)
        keys = sorted(receipt["destination"] for receipt in receipts)
        equal(keys, sorted(f"s3://{DESTINATION}/{key}" for key in self.server.objects(SOURCE)), "receipts")

    def describe(self):
        """Returns the states, logs, and events that explain a failed scenario."""
        if self.cluster.watch.closed:
            return "the cluster is gone"
        lines = []
        # A run by many pods has too many to print, so only the last ones are.
        for pod in self.pods()[-24:]:
            lines.append(f"{name_of(pod)}: {json.dumps(pod['status'].get('containerStatuses'))}")
            try:
                lines += [f"    {line}" for line in self.log(name_of(pod)).splitlines()[-15:]]
            except (AssertionError, OSError, ValueError) as error:
                lines.append(f"    no log: {error}")
        for job in self.cluster.watch.objects("jobs", self.namespace):
            lines.append(f"{name_of(job)}: {json.dumps(job['status'])}")
        lines += [f"event {reason}: {message}" for reason, message in self.events()]
        return "\n".join(lines)


def name_of(found):
    return found["metadata"]["name"]


def has_failed(job):
    return any(each["type"] == "Failed" and each["status"] == "True" for each in job["status"].get("conditions", []))


def terminated(pod):
    """Returns the terminated state of a pod's container, or None."""
    statuses = pod["status"].get("containerStatuses") or [{"state": {}}]
    return statuses[0]["state"].get("terminated")


def parsed(line):
    """Parses a line of a log, which must be a JSON object with time and level."""
    try:
        found = json.loads(line)
        return {**found, "time": found["time"], "level": found["level"]}
    except (ValueError, KeyError, TypeError):
        raise AssertionError(f"not a line of JSON with time and level: {line}") from None


def waiting(pod):
    statuses = pod["status"].get("containerStatuses") or [{"state": {}}]
    state = statuses[0]["state"].get("waiting") or {}
    return state.get("reason"), state.get("message", "")
