"""What an operator sees afterwards."""

import json

from harness.runner import scenario
from harness.world import equal, name_of, terminated

from .interrupted import completes, half_done
from .nights import journal_in_s3


def wrong_bucket(manifest):
    manifest["transfers"][0]["to"]["s3"] = "s3://lake-replika/"


@scenario
def each_line_of_the_log_is_json(world):
    world.start_server()
    world.create_secret()
    world.deploy()
    job = world.run_now()
    world.assert_ended(job, "Complete", "CompletionsReached", [0])
    lines = world.log_of(job).splitlines()
    assert lines, "the log is empty"
    for line in lines:
        try:
            json.loads(line)
        except ValueError:
            raise AssertionError(f"not JSON: {line}") from None


@scenario
def the_cause_is_in_the_termination_message(world):
    world.start_server()
    world.create_secret()
    world.deploy(wrong_bucket)
    job = world.run_now()
    world.assert_ended(job, "Failed", "PodFailurePolicy", [3])
    message = terminated(world.pods(job)[0]).get("message", "")
    assert "lake-replika" in message, f"the message: {message!r}"
    assert message in world.kubectl("describe", "pod", name_of(world.pods(job)[0]))


@scenario(EXPECTED_TO_FAIL="K6: a report cannot be written to S3, and one on an emptyDir goes with its pod", WITH="has failed")
def the_report_outlives_an_eviction(world):
    def report_in_s3(manifest):
        journal_in_s3(manifest)
        manifest["report"] = {"s3": "s3://lake-ops/s3haul/nightly-replica/report/"}

    job, pod = half_done(world, job=report_in_s3)
    world.evict(pod)
    completes(world, job, [4, 0])
    equal(bool(world.server.objects("lake-ops", "s3haul/nightly-replica/report/")), True, "a report in S3")


@scenario
def the_log_begins_with_what_runs(world):
    world.start_server()
    world.create_secret()
    world.deploy()
    job = world.run_now()
    world.assert_ended(job, "Complete", "CompletionsReached", [0])
    text = world.log_of(job).splitlines()[0]
    for expected in ("0.1.0", "nightly-replica", world.server.url, name_of(world.pods(job)[0])):
        assert expected in text, f"{expected} is not in {text}"
