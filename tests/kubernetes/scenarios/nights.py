"""Runs without failures: the first deployment, the schedule, and the commands of deploy/README.md."""

import json

from harness import ROOT
from harness.runner import scenario
from harness.world import DESTINATION, OPS, equal, name_of


def journal_in_s3(manifest):
    equal(manifest["journal"], f"s3://{OPS}/s3haul/nightly-replica/", "the journal of the base")


@scenario
def first_deploy_by_the_docs(world):
    """The steps of deploy/README.md, in order."""
    world.start_server()
    world.create_secret()
    world.deploy()
    job = world.run_now()
    world.assert_ended(job, "Complete", "CompletionsReached", [0])
    world.assert_replica()
    world.assert_one_receipt_per_object()
    assert "40 objects copied" in world.kubectl("logs", f"job/{job}")
    again = world.run_now("s3haul-again")
    world.assert_ended(again, "Complete", "CompletionsReached", [0])
    world.assert_in_log(again, "0 objects copied")


@scenario
def the_schedule_starts_a_run(world):
    world.start_server()
    world.create_secret()
    world.deploy(schedule="* * * * *")
    jobs = lambda: world.cluster.watch.objects("jobs", world.namespace)
    world.wait(jobs, "the schedule makes a Job", timeout=90)
    world.assert_ended(name_of(jobs()[0]), "Complete", "CompletionsReached", [0])
    world.assert_replica()


@scenario
def a_schedule_shorter_than_the_run_waits(world):
    """concurrencyPolicy is Forbid: while the first Job is running, the next minute starts no second one."""
    world.start_server(a=10)
    world.server.rules([{"operation": "CopyObject", "effect": "throttle"}])
    world.create_secret()
    world.deploy(schedule="* * * * *")
    is_skipped = lambda: any(reason == "JobAlreadyActive" for reason, _ in world.events())
    world.wait(is_skipped, "the controller reports that a Job is still active", timeout=180)
    equal(len(world.cluster.watch.objects("jobs", world.namespace)), 1, "Jobs")


@scenario
def suspended_and_resumed(world):
    """A suspended Job loses its pod. After it is resumed, a new pod resumes the run."""
    world.start_server(a=20, b=20)
    world.server.rules([{"operation": "CopyObject", "prefix": "b/", "effect": "throttle"}])
    world.create_secret()
    world.deploy(journal_in_s3)
    job = world.run_now()
    world.wait_for_running(job)
    world.wait_for_objects(20)
    world.kubectl("patch", "job", job, "--patch", '{"spec": {"suspend": true}}')
    world.wait(lambda: world.pods(job)[0]["deleted"], "the pod of the suspended Job is gone")
    world.server.forget_rules()
    world.kubectl("patch", "job", job, "--patch", '{"spec": {"suspend": false}}')
    world.assert_ended(job, "Complete", "CompletionsReached", [4, 0])
    world.assert_replica()


@scenario
def two_jobs_at_once(world):
    """The first Job completes undisturbed. The second one exits with 6, names the holder of the journal, and is not
    retried."""
    world.start_server(a=20)
    world.server.rules([{"operation": "CopyObject", "effect": "throttle"}])
    world.create_secret()
    world.deploy(journal_in_s3)
    first = world.run_now("s3haul-first")
    world.wait_for_running(first)
    world.wait_for_struck(1)
    second = world.run_now("s3haul-second")
    # The base sets S3HAUL_WAIT, so the second Job waits that long before it ends.
    equal(world.wait_for_end(second, timeout=240), ("Failed", "PodFailurePolicy"), "the end of the second Job")
    world.assert_ended(second, "Failed", "PodFailurePolicy", [6])
    assert name_of(world.pods(first)[0]) in world.message(second), "the second Job does not name the holder"
    world.server.forget_rules()
    world.assert_ended(first, "Complete", "CompletionsReached", [0])
    world.assert_replica()


@scenario
def job_edited_between_two_nights(world):
    world.start_server(a=20, b=20)
    world.server.rules([{"operation": "CopyObject", "prefix": "b/", "effect": "throttle"}])
    world.create_secret()
    world.deploy(journal_in_s3)
    job = world.run_now()
    pod = world.wait_for_running(job)
    world.wait_for_objects(20)
    world.kubectl("delete", "job", job)
    world.wait(lambda: all(each["deleted"] for each in world.pods(job)), f"{pod} is gone")
    world.server.forget_rules()

    def edited(manifest):
        journal_in_s3(manifest)
        manifest["on_change"] = "new-run"
        manifest["transfers"][0]["from"]["exclude"] = ["tmp/**", "old/**"]

    world.deploy(edited)
    next_night = world.run_now("s3haul-next-night")
    world.assert_ended(next_night, "Complete", "CompletionsReached", [0])
    world.assert_replica()


@scenario
def the_overlays_apply(world):
    """Each overlay can be applied to an empty cluster. The overlay's image does not exist here, so the scenario ends
    when a pod tries to pull it."""
    for overlay in sorted((ROOT / "deploy/overlays").iterdir()):
        job = f"s3haul-{overlay.name}"
        events = lambda: world.cluster.watch.objects("events", "data")
        is_pulled = lambda event: "registry.example.internal/s3haul:0.1.0" in event["message"]
        of_job = lambda event: event["involvedObject"]["name"].startswith(job)
        try:
            applied = world.cluster.kubectl("apply", "-k", overlay)
            if "job.batch/lake-1" in applied:
                job = "lake-1"
            else:
                world.cluster.kubectl("--namespace=data", "create", "job", "--from=cronjob/s3haul", job)
            pulled = lambda: any(of_job(event) and is_pulled(event) for event in events())
            world.wait(pulled, f"the pod of {overlay.name} pulls the overlay's image")
        finally:
            world.cluster.kubectl("delete", "-k", overlay, check=False)


def in_pod(world, name, *arguments):
    """Runs the shell function `in_pod` of deploy/README.md, in this namespace instead of `data`."""
    function = shell_function("in_pod")
    assert "kubectl -n data " in function, function
    function = function.replace("kubectl -n data ", "kubectl ")
    world.bash(f"{function}\nin_pod {name} {' '.join(arguments)}")


def in_job_pod(world, overlay, name, *arguments):
    """Runs the shell function `in_job_pod` of deploy/README.md, with this overlay instead of `deploy/overlays/lake`."""
    function = shell_function("in_job_pod")
    assert "deploy/overlays/lake" in function, function
    function = function.replace("deploy/overlays/lake", str(overlay.directory))
    world.bash(f"{function}\nin_job_pod {name} {' '.join(arguments)}")


def shell_function(name):
    readme = (ROOT / "deploy/README.md").read_text()
    function = readme[readme.index(f"\n{name}() {{") + 1:]
    return function[: function.index("\n}\n") + 3]


@scenario
def another_command_in_a_pod(world):
    """`in_pod` of deploy/README.md runs `check`, and `retry` after a failure."""

    def run(name, *arguments):
        in_pod(world, name, *arguments)
        world.assert_ended(name, "Complete", "CompletionsReached", [0])
        return world.log_of(name)

    world.start_server()
    world.create_secret()
    world.deploy()
    # Commands print results to standard output, which is part of a container's log.
    assert "ok  lake" in run("s3haul-check", "check", "/etc/s3haul/job.yaml")
    refused = {"answer": {"status": 403, "code": "AccessDenied"}}
    world.server.rules([{"operation": "CopyObject", "key": "00001", "effect": refused}])
    job = world.run_now()
    world.assert_ended(job, "Failed", "BackoffLimitExceeded", [1, 1, 1, 1])
    world.server.forget_rules()
    assert "1 object copied" in run("s3haul-retry", "retry", "s3://lake-ops/s3haul/nightly-replica/")
    world.assert_no_uploads()
    equal(len(world.server.objects(DESTINATION)), 40, "objects at the destination")


@scenario
def a_command_in_a_pod_is_no_run(world):
    """Commands in pods are not owned by the CronJob. It owns the Jobs that `kubectl create job --from` makes: they
    count against its history limits, and their success resolves the alert S3haulFailed. A check must do neither, and a
    second check must not show the log of the first."""
    last_success = lambda: json.loads(world.kubectl("get", "cronjob", "s3haul", "--output=json"))["status"].get("lastSuccessfulTime")
    world.start_server()
    world.create_secret()
    world.deploy()
    first = world.run_now("s3haul-first")
    world.assert_ended(first, "Complete", "CompletionsReached", [0])
    checks = [f"s3haul-check-{number}" for number in range(4)]
    for check in checks:
        in_pod(world, check, "check", "/etc/s3haul/job.yaml")
        world.assert_ended(check, "Complete", "CompletionsReached", [0])
        equal(world.job(check)["metadata"].get("ownerReferences"), None, f"the owner of {check}")
    try:
        in_pod(world, checks[0], "check", "/etc/s3haul/job.yaml")
    except AssertionError as error:
        assert "already exists" in str(error), error
    else:
        raise AssertionError("a name was used twice")
    later = world.run_now("s3haul-later")
    world.assert_ended(later, "Complete", "CompletionsReached", [0])
    # Once the CronJob has this success, its controller has seen all of these Jobs. successfulJobsHistoryLimit is 3, so
    # it would have deleted one if it owned the checks.
    done = world.job(later)["status"]["completionTime"]
    world.wait(lambda: last_success() == done, "the CronJob has its last success")
    kept = json.loads(world.kubectl("get", "jobs", "--output=json"))["items"]
    equal(sorted(map(name_of, kept)), sorted([first, *checks, later]), "Jobs that are left")


@scenario
def stopped_and_run_again(world):
    """A run is deleted, and another one starts before the first one's pod is gone: it waits, and resumes the run."""
    world.start_server(a=20, b=20)
    world.server.rules([{"operation": "CopyObject", "prefix": "b/", "effect": {"delay": "8s"}}])
    world.create_secret()
    world.deploy(journal_in_s3)
    job = world.run_now()
    world.wait_for_running(job)
    world.wait_for_objects(20)
    world.kubectl("delete", "job", job)
    again = world.run_now("s3haul-again")
    world.assert_ended(again, "Complete", "CompletionsReached", [0])
    world.assert_in_log(again, "waiting up to", "resuming the run")
    world.assert_replica()


@scenario
def the_alerts_apply(world):
    """An overlay can include the component with the alerts, if the cluster has PrometheusRule."""
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "prometheusrules.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"plural": "prometheusrules", "singular": "prometheusrule", "kind": "PrometheusRule"},
            "versions": [{
                "name": "v1", "served": True, "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }],
        },
    }
    world.cluster.kubectl("apply", "-f", "-", input=json.dumps(definition))
    world.cluster.kubectl("wait", "--for=condition=established", "crd/prometheusrules.monitoring.coreos.com")
    world.deploy(components=["deploy/kubernetes/alerts"])
    rules = json.loads(world.kubectl("get", "prometheusrules", "--output=json"))["items"]
    names = [rule["alert"] for each in rules for group in each["spec"]["groups"] for rule in group["rules"]]
    assert "S3haulFailed" in names, names
