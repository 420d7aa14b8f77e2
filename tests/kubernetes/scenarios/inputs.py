"""Wrong or missing inputs of the operator, and servers that are not up yet."""

import threading

from harness.runner import scenario
from harness.world import DESTINATION, SOURCE, equal, waiting


@scenario
def secret_missing(world):
    """The pod's status names the missing Secret, and the run starts as soon as the Secret exists."""
    world.start_server()
    world.deploy()
    job = world.run_now()
    state = ("CreateContainerConfigError", 'secret "s3haul-credentials" not found')
    world.wait(lambda: [waiting(pod) for pod in world.pods(job)] == [state], "the pod reports the missing Secret")
    world.wait(lambda: ("Failed", f"Error: {state[1]}") in world.events(), "an event reports it too")
    world.create_secret()
    world.assert_ended(job, "Complete", "CompletionsReached", [0])
    world.assert_replica()


@scenario
def config_map_key_missing(world):
    reference = {"configMapKeyRef": {"name": "s3", "key": "region"}}
    world.start_server()
    world.create_secret()
    world.kubectl("create", "configmap", "s3", "--from-literal=place=here")
    world.deploy(container={"env": [
        {"name": "AWS_ENDPOINT_URL_S3", "value": world.server.url}, {"name": "AWS_REGION", "valueFrom": reference},
    ]})
    job = world.run_now()
    state = ("CreateContainerConfigError", f"couldn't find key region in ConfigMap {world.namespace}/s3")
    world.wait(lambda: [waiting(pod) for pod in world.pods(job)] == [state], "the pod reports the missing key")
    world.kubectl("patch", "configmap", "s3", "--patch", '{"data": {"region": "eu-central-1"}}')
    world.assert_ended(job, "Complete", "CompletionsReached", [0])


@scenario
def manifest_missing(world):
    """The ConfigMap with job.yaml does not exist: the pod waits for its volume."""
    world.start_server()
    world.create_secret()
    world.deploy()
    name = world.kubectl("get", "configmaps", "--output=name", "--selector=app.kubernetes.io/name=s3haul").strip()
    world.kubectl("delete", name)
    job = world.run_now()
    message = f'MountVolume.SetUp failed for volume "job" : configmap "{name.split("/")[1]}" not found'
    world.wait(lambda: ("FailedMount", message) in world.events(), "an event reports the missing ConfigMap")
    world.wait(lambda: [waiting(pod)[0] for pod in world.pods(job)] == ["ContainerCreating"], "the pod reports that it waits")


@scenario
def wrong_manifest(world):
    """Exit code 2: the Job fails at once, after one pod."""

    def mistyped(manifest):
        manifest["transfers"][0]["form"] = manifest["transfers"][0].pop("from")

    world.start_server()
    world.create_secret()
    world.deploy(mistyped)
    job = world.run_now()
    world.assert_ended(job, "Failed", "PodFailurePolicy", [2])
    world.assert_in_log(job, "form")


@scenario
def wrong_bucket(world):
    def wrong(manifest):
        manifest["transfers"][0]["to"]["s3"] = "s3://lake-replika/"

    world.start_server()
    world.create_secret()
    world.deploy(wrong)
    job = world.run_now()
    world.assert_ended(job, "Failed", "PodFailurePolicy", [3])
    assert "lake-replika" in world.message(job), world.message(job)


@scenario
def wrong_region(world):
    def wrong(manifest):
        manifest["endpoints"]["default"]["region"] = "us-east-1"

    world.start_server()
    world.create_secret()
    world.deploy(wrong)
    job = world.run_now()
    world.assert_ended(job, "Failed", "PodFailurePolicy", [3])
    world.assert_in_log(job, "another region", "eu-central-1")


@scenario
def wrong_key(world):
    world.start_server()
    world.create_secret(AWS_ACCESS_KEY_ID="mistyped", AWS_SECRET_ACCESS_KEY="wrong")
    world.deploy()
    job = world.run_now()
    world.assert_ended(job, "Failed", "PodFailurePolicy", [3])
    world.assert_in_log(job, "InvalidAccessKeyId")
    equal(world.server.objects(DESTINATION), {}, "objects at the destination")


@scenario
def server_away_at_the_start(world):
    """The server starts 5 s late: the first pod waits, and logs what it waits for."""
    world.create_secret()
    world.deploy()
    job = world.run_now()
    pod = world.wait_for_running(job)
    late = threading.Timer(5, world.start_server)
    late.start()
    world.wait_for_log(pod, "waiting for")
    late.join()
    world.assert_ended(job, "Complete", "CompletionsReached", [0])
    equal(len(world.pods(job)), 1, "pods")
    world.assert_replica()


@scenario
def server_away_for_a_minute_at_the_start(world):
    """The server starts a minute late, which is longer than one request may take: the first pod still waits, and
    completes."""
    world.create_secret()
    world.deploy()
    job = world.run_now()
    world.wait_for_running(job)
    late = threading.Timer(60, world.start_server)
    late.start()
    late.join()
    world.assert_ended(job, "Complete", "CompletionsReached", [0])
    world.assert_in_log(job, "waiting for", '"event":"back"')
    world.assert_replica()


@scenario
def server_away_beyond_patience(world):
    """Each pod ends with exit code 4, which does not count as a failure, until the server is up."""

    def impatient(manifest):
        manifest["limits"] = {"patience": "2s"}

    world.create_secret()
    world.deploy(impatient)
    job = world.run_now()
    world.wait(lambda: world.exit_codes(job)[:4] == [4, 4, 4, 4], "four pods have exited with 4")
    equal(world.job(job)["status"].get("conditions"), None, "conditions of the Job")
    world.start_server()
    world.wait_for_end(job)
    equal(set(world.exit_codes(job)[:-1]), {4}, "exit codes before the last")
    for pod in world.pods(job):
        world.assert_told(pod)
    assert "connection refused" in world.message(job), world.message(job)
    world.assert_replica()


@scenario
def some_objects_fail(world):
    """Exit code 1 counts as a failure. backoffLimit is 3, so there are four pods."""
    world.start_server()
    refused = {"answer": {"status": 403, "code": "AccessDenied"}}
    world.server.rules([{"operation": "CopyObject", "key": "00001", "effect": refused}])
    world.create_secret()
    world.deploy()
    job = world.run_now()
    world.assert_ended(job, "Failed", "BackoffLimitExceeded", [1, 1, 1, 1])
    assert "AccessDenied" in world.message(job), world.message(job)
    world.server.forget_rules()
    again = world.run_now("s3haul-again")
    world.assert_ended(again, "Complete", "CompletionsReached", [0])
    world.assert_replica()


@scenario
def objects_in_an_archive(world):
    """Exit code 5: the run copies the readable objects and requests restores of the others. A later run copies
    those."""

    def restoring(manifest):
        manifest["transfers"][0]["archived"] = "restore"

    world.start_server()
    put = world.server.client().put_object
    put(Bucket=SOURCE, Key="cold/1", Body=b"cold", StorageClass="GLACIER")
    world.create_secret()
    world.deploy(restoring)
    job = world.run_now()
    world.assert_ended(job, "Failed", "PodFailurePolicy", [5])
    assert "restore" in world.message(job), world.message(job)
    equal(len(world.server.objects(DESTINATION)), 40, "objects at the destination")
    # Replaces the archived object with a readable one, as a restore would.
    put(Bucket=SOURCE, Key="cold/1", Body=b"cold")
    next_night = world.run_now("s3haul-next-night")
    world.assert_ended(next_night, "Complete", "CompletionsReached", [0])
    world.assert_replica()


@scenario
def a_bug(world):
    """Exit code 70 counts as a failure. The program panics because it cannot start a thread with such a large stack."""
    world.start_server()
    world.create_secret()
    impossible = {"name": "RUST_MIN_STACK", "value": str(2**47)}
    world.deploy(container={"env": [{"name": "AWS_ENDPOINT_URL_S3", "value": world.server.url}, impossible]})
    job = world.run_now()
    world.assert_ended(job, "Failed", "BackoffLimitExceeded", [70] * 4)
    assert "panicked at" in world.message(job), world.message(job)


def _refuses(world, name, fields):
    """Deploys the job with these fields. Asserts that it ends with 3 before the first write, and that the cause
    contains `name`."""
    world.start_server()
    world.create_secret()
    world.deploy(lambda manifest: manifest.update(fields))
    job = world.run_now()
    world.assert_ended(job, "Failed", "PodFailurePolicy", [3])
    assert name in world.message(job), world.message(job)
    equal(world.server.objects(DESTINATION), {}, "objects at the destination")


@scenario
def report_target_refused(world):
    _refuses(world, "/not-there", {"report": {"json": "/not-there/report.jsonl"}})


@scenario
def report_in_s3_refused(world):
    _refuses(world, "lake-ops-of-others", {"report": {"s3": "s3://lake-ops-of-others/s3haul/"}})


@scenario
def journal_refused(world):
    _refuses(world, "lake-ops-of-others", {"journal": "s3://lake-ops-of-others/s3haul/"})
