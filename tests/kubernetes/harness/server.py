"""The S3 server of one scenario: `s3haul sandbox` on the loopback interface, with rules for faults. boto3 inspects it
from outside."""

import collections
import json
import os
import subprocess
import time
import urllib.request

import boto3
from botocore.config import Config

from .processes import free_ports

REGION = "eu-central-1"
SOURCE, DESTINATION, OPS = "lake-prod", "lake-replica", "lake-ops"
KEYS = {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox-secret"}


class Server:
    """A sandbox. Its port is known before it starts, so that a scenario can start it late."""

    def __init__(self, processes, binary):
        self._processes = processes
        self._binary = binary
        self.directory = processes.logs
        port, self._control = free_ports(2)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.region = REGION
        self.process = None
        # The id of the rule that counts copies (`start_with_many`).
        self._counter = None

    def start(self, buckets, objects):
        """Starts the server and creates the buckets, in the region that deploy/'s job.yaml names. `objects` maps the
        keys of the first bucket to their sizes."""
        # A pod may already be waiting for this server. The rule hides the buckets from it until all objects exist.
        self._start("--rule", json.dumps({"operation": "HeadBucket", "effect": {"reset": "before"}}))
        client = self.client()
        for bucket in buckets:
            client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        for key, size in objects.items():
            client.put_object(Bucket=buckets[0], Key=key, Body=os.urandom(size))
        self.forget_rules()

    def start_with_many(self, objects):
        """Starts the server with virtual objects in the source: KEY=SIZE, or PREFIX/=COUNTxSIZE. The destination is
        versioned, so that `writes` can count."""
        self.region = "us-east-1"
        given = [("--object", f"s3://{SOURCE}/{each}") for each in objects]
        given += [("--bucket", each) for each in (DESTINATION, OPS)]
        self._start(*(word for pair in given for word in pair))
        self.client().put_bucket_versioning(Bucket=DESTINATION, VersioningConfiguration={"Status": "Enabled"})
        self._counter = self.rules([{"operation": "CopyObject", "effect": {"delay": "0s"}}])[0]

    def copies(self):
        """Returns the number of CopyObject requests so far. Needs `start_with_many`."""
        return json.loads(self._request("GET", number=self._counter))["matched"]

    def _start(self, *arguments):
        self.process = self._processes.start(
            f"sandbox-{self.port}",
            [self._binary, "sandbox", "--port", self.port, "--control", f"127.0.0.1:{self._control}", *arguments],
        )
        for _ in range(300):
            try:
                self.rules([])
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError("the sandbox did not answer within 30 s")

    def rules(self, rules):
        """Adds rules for faults and returns their ids. docs/sandbox.md explains their fields."""
        return json.loads(self._request("POST", json.dumps(rules).encode()))["ids"]

    def forget_rules(self, numbers=None):
        """Removes the rules with these ids, or all except the one that counts copies."""
        if numbers is None:
            rules = json.loads(self._request("GET"))["rules"]
            numbers = [rule["id"] for rule in rules if rule["id"] != self._counter]
        for number in numbers:
            self._request("DELETE", number=number)

    def struck(self):
        """Returns the number of calls on which rules have acted so far."""
        return sum(rule["struck"] for rule in json.loads(self._request("GET"))["rules"])

    def _request(self, method, body=None, number=None):
        url = f"http://127.0.0.1:{self._control}/_sandbox/rules" + (f"/{number}" if number else "")
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=30) as answer:
            return answer.read()

    def s3haul(self, *arguments, exit_code=0):
        """Runs a command outside the engine, as an engineer with the keys would, and returns its standard output. The
        exit code must be this one."""
        environment = {**KEYS, "AWS_ENDPOINT_URL_S3": self.url, "AWS_REGION": self.region, "HOME": str(self.directory)}
        command = [str(each) for each in (self._binary, *arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        if done.returncode != exit_code:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
        )

    def objects(self, bucket, prefix=""):
        """Maps each key to its size and ETag."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {each["Key"]: (each["Size"], each["ETag"]) for page in pages for each in page.get("Contents", [])}

    def checksum(self, bucket, key):
        """The size and the checksum of all bytes, however many parts the object has."""
        head = self.client().head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        assert head["ChecksumType"] == "FULL_OBJECT", head
        return head["ContentLength"], head["ChecksumCRC64NVME"]

    def writes(self, bucket):
        """Maps each key of a versioned bucket to the number of times it was written."""
        pages = self.client().get_paginator("list_object_versions").paginate(Bucket=bucket)
        return collections.Counter(each["Key"] for page in pages for each in page.get("Versions", []))

    def content(self, bucket, key):
        return self.client().get_object(Bucket=bucket, Key=key)["Body"].read()

    def uploads(self, bucket):
        return self.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])
