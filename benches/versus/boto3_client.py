"""A program that uses boto3: copies one object or all below a prefix, or uploads one file or a directory.

boto3_client.py KIND SOURCE DESTINATION [IN_FLIGHT PART_MIB]
"""

import os
import sys

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config

kind, source, destination, *tuned = sys.argv[1:]
if tuned:
    in_flight, part = int(tuned[0]), int(tuned[1]) << 20
    config = TransferConfig(max_concurrency=in_flight, multipart_chunksize=part, multipart_threshold=2 * part)
    config.max_request_queue_size = 10_000
    retries = {"mode": "standard", "max_attempts": 20}
    client = boto3.client("s3", config=Config(max_pool_connections=in_flight, retries=retries))
else:
    config, client = TransferConfig(), boto3.client("s3")


def place(uri):
    """Splits an S3 URI into bucket and key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


with create_transfer_manager(client, config) as manager:
    bucket, key = place(destination)
    if kind == "upload-file":
        futures = [manager.upload(source, bucket, key)]
    elif kind == "upload-files":
        futures = [manager.upload(entry.path, bucket, key + entry.name) for entry in os.scandir(source)]
    elif kind == "copy-one":
        from_bucket, from_key = place(source)
        futures = [manager.copy({"Bucket": from_bucket, "Key": from_key}, bucket, key)]
    else:
        from_bucket, prefix = place(source)
        futures = []
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=from_bucket, Prefix=prefix):
            for entry in page["Contents"]:
                copied = {"Bucket": from_bucket, "Key": entry["Key"]}
                futures.append(manager.copy(copied, bucket, key + entry["Key"].removeprefix(prefix)))
    failed = 0
    for future in futures:
        try:
            future.result()
        except Exception as error:
            failed += 1
            print(error, file=sys.stderr)
sys.exit(1 if failed else 0)
