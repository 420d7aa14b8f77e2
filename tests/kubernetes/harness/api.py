"""A small client of the API server: JSON requests, and a watch that remembers deleted objects."""

import json
import ssl
import threading
import time
import urllib.error
import urllib.request

KINDS = {"pods": "/api/v1/pods", "jobs": "/apis/batch/v1/jobs", "events": "/api/v1/events"}


class Api:
    def __init__(self, url, token):
        self.url = url
        self.token = token
        # The API server made its self-signed certificate when it started, on this machine.
        self._tls = ssl._create_unverified_context()

    def open(self, path, method="GET", body=None, kind="application/json", timeout=30):
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        request.add_header("Content-Type", kind)
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.urlopen(request, data, timeout=timeout, context=self._tls)

    def call(self, path, **options):
        with self.open(path, **options) as answer:
            return json.load(answer)


class Watch:
    """Knows the last state of each pod, Job, and event, including deleted ones."""

    def __init__(self, api):
        self.api = api
        self.changed = threading.Condition()
        self._objects = {kind: {} for kind in KINDS}
        self.closed = False
        self._threads = [threading.Thread(target=self._follow, args=(kind,), daemon=True) for kind in KINDS]
        for thread in self._threads:
            thread.start()

    def close(self):
        """Makes all waits fail, because the cluster is about to end."""
        self.closed = True

    def objects(self, kind, namespace):
        """Returns all objects that a namespace has ever had, in the order of their creation."""
        with self.changed:
            found = [each for each in self._objects[kind].values() if each["metadata"]["namespace"] == namespace]
        return sorted(found, key=lambda each: (each["metadata"]["creationTimestamp"], each["order"]))

    def wait(self, condition, timeout, what):
        """Waits until `condition()` returns something true, and returns it. Calls it after each change, and every
        second."""
        until = time.monotonic() + timeout
        while True:
            if self.closed:
                raise AssertionError(f"the cluster ended during the wait for: {what}")
            with self.changed:
                if result := condition():
                    return result
                left = until - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"waited {timeout} s for: {what}")
                self.changed.wait(min(left, 1))

    def _follow(self, kind):
        while not self.closed:
            try:
                listed = self.api.call(KINDS[kind])
                for each in listed["items"]:
                    self._see(kind, each, False)
                version = listed["metadata"]["resourceVersion"]
                path = f"{KINDS[kind]}?watch=1&resourceVersion={version}"
                with self.api.open(path, timeout=3600) as answer:
                    for line in answer:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            break
                        self._see(kind, event["object"], event["type"] == "DELETED")
            except (OSError, ValueError):
                time.sleep(0.2)

    def _see(self, kind, seen, deleted):
        with self.changed:
            known = self._objects[kind]
            identity = seen["metadata"]["uid"]
            seen["order"] = known[identity]["order"] if identity in known else len(known)
            seen["deleted"] = deleted
            known[identity] = seen
            self.changed.notify_all()
