"""Runs scenarios concurrently, each in its own environment, and prints their results."""

import concurrent.futures
import time
import traceback

from .world import World

SCENARIOS = {}


def scenario(function=None, *, EXPECTED_TO_FAIL=None, WITH=None):
    """Registers a function as a scenario. It takes a World, and its name becomes the name of the namespace.

    EXPECTED_TO_FAIL is the reason why the product cannot pass it yet, and WITH a text that its failure must contain.
    Any other failure is an error. So is a pass: whoever fixes the product removes the mark.
    """

    def register(function):
        assert (EXPECTED_TO_FAIL is None) == (WITH is None), "EXPECTED_TO_FAIL and WITH go together"
        function.expected_to_fail, function.fails_with = EXPECTED_TO_FAIL, WITH
        assert function.__name__ not in SCENARIOS, function.__name__
        SCENARIOS[function.__name__] = function
        return function

    return register(function) if function else register


def run(cluster, names, side_by_side, make_world=World):
    """Runs the scenarios. Returns the names of those that failed, or passed although they were expected to fail."""
    began = time.monotonic()
    wrong = []
    pool = concurrent.futures.ThreadPoolExecutor(side_by_side)
    try:
        futures = {pool.submit(_run_one, cluster, name, make_world): name for name in names}
        for future in concurrent.futures.as_completed(futures):
            name = futures[future]
            seconds, failure, description = future.result()
            reason = SCENARIOS[name].expected_to_fail
            if failure and reason and SCENARIOS[name].fails_with in failure.rsplit("Error: ", 1)[-1]:
                print(f"ok      {name} ({seconds:.0f} s) failed as expected: {reason}", flush=True)
            elif failure:
                wrong.append(name)
                print(f"FAILED  {name} ({seconds:.0f} s)\n{failure}\n{description}", flush=True)
            elif reason:
                wrong.append(name)
                print(f"FAILED  {name}: it passed; remove EXPECTED_TO_FAIL: {reason}", flush=True)
            else:
                print(f"ok      {name} ({seconds:.0f} s)", flush=True)
    finally:
        # After a signal, do not wait for running scenarios. They fail when the cluster is closed, and then clean up.
        pool.shutdown(wait=False, cancel_futures=True)
    print(f"{len(names)} scenarios, {len(wrong)} failed, {time.monotonic() - began:.0f} s", flush=True)
    return wrong


def _run_one(cluster, name, make_world):
    began = time.monotonic()
    failure, description = None, ""
    world = make_world(cluster, name)
    try:
        SCENARIOS[name](world)
    except Exception:  # noqa: BLE001: `run` prints it
        failure, description = traceback.format_exc(), world.describe()
    finally:
        world.close()
    return time.monotonic() - began, failure, description
