"""The report and the log that an operator reads after a run."""

from harness.runner import scenario
from harness.world import OPS, equal, name_of

from .interrupted import completes, half_done


@scenario
def the_report_outlives_an_eviction(world):
    """Two pods write one report. It can be read from outside after both are gone."""
    prefix = "s3haul/nightly-replica/reports/"

    def elsewhere(manifest):
        manifest["report"] = {"s3": f"s3://{OPS}/{prefix}"}

    job, pod = half_done(world, job=elsewhere)
    world.evict(pod)
    completes(world, job, [4, 0], prefix=prefix)
    world.kubectl("delete", "job", job)
    world.assert_one_receipt_per_object(prefix=prefix)
    shown = world.s3haul("report", "show", f"s3://{OPS}/{prefix}", "--json")
    equal((shown["state"], shown["footer"]["done_objects"], shown["not_done"]), ("complete", 60, 0), "state, copied, and pending objects of the report")


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
