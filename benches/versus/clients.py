"""The command line of each client for each work: by default, and with the flags that make it fastest.

`prepare` sets the environment and the files that a client reads. It returns a description of the tuning among them, or raises
`Unable` if the client cannot do the work. The results show the reason.
"""

import os
import pathlib

HERE = pathlib.Path(__file__).parent


class Unable(Exception):
    """The client cannot do this work; the text says why."""


def base(variables, home):
    """Returns the environment of every client: credentials and endpoint, without the user's own configuration."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    endpoint = variables["AWS_ENDPOINT_URL_S3"]
    return {
        **kept, **variables, "HOME": home, "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": variables["AWS_REGION"], "AWS_CONFIG_FILE": f"{home}/config",
        "S3_ENDPOINT_URL": endpoint,
    }


def places(work, files):
    """Returns source and destination of a work."""
    return {
        "copy-one": ("s3://data/big", "s3://copies/big"),
        "start": ("s3://data/big", "s3://copies/big"),
        "copy-many": ("s3://data/s/", "s3://copies/s/"),
        "sync": ("s3://data/s/", "s3://copies/s/"),
        "upload-file": (files, "s3://copies/up/file"),
        "upload-files": (f"{files}/", "s3://copies/up/"),
    }[work.kind]


class S3haul:
    name = "s3haul"

    def __init__(self, binary, _tools):
        self.binary = str(binary)

    def version(self):
        return [self.binary, "--version"]

    def prepare(self, work, tuned, environment):
        if tuned and (work.kind not in ("copy-one", "copy-many") or work.capped):
            raise Unable("nothing to tune")

    def command(self, work, tuned, files, environment):
        flags = ["--provider", "aws", "--quiet"]
        if work.capped:
            flags += ["--in-flight", str(work.in_flight)]
        if tuned:
            flags += ["--preserve", "content-only"]
        return [self.binary, "copy", *places(work, files), *flags]


class Aws:
    name = "aws"

    def __init__(self, _binary, tools):
        self.program = str(tools / "bin" / "aws")

    def version(self):
        return [self.program, "--version"]

    def prepare(self, work, tuned, environment):
        if not tuned:
            return
        if work.kind == "start":
            raise Unable("nothing to tune")
        # With one request per object, more than 64 threads only wait for the interpreter.
        in_flight = work.in_flight if work.kind in ("copy-one", "upload-file") or work.name == "mixed" else 64
        environment["AWS_MAX_ATTEMPTS"] = "20"
        settings = [
            f"max_concurrent_requests = {in_flight}", "max_queue_size = 10000",
            f"multipart_chunksize = {work.part}MB", f"multipart_threshold = {2 * work.part}MB",
        ]
        lines = "".join(f"  {setting}\n" for setting in settings)
        pathlib.Path(environment["AWS_CONFIG_FILE"]).write_text(f"[default]\ns3 =\n{lines}")
        return "AWS_MAX_ATTEMPTS=20; s3: " + ", ".join(settings)

    def command(self, work, tuned, files, environment):
        verb = ["sync"] if work.kind == "sync" else ["cp"]
        recursive = ["--recursive"] if work.kind in ("copy-many", "upload-files") else []
        return [self.program, "s3", *verb, *places(work, files), *recursive, "--only-show-errors"]


class Boto3:
    name = "boto3"

    def __init__(self, _binary, tools):
        self.python = str(tools / "bin" / "python")

    def version(self):
        return [self.python, "-c", "import boto3, s3transfer; print('boto3', boto3.__version__, 's3transfer', s3transfer.__version__)"]

    def prepare(self, work, tuned, environment):
        if work.kind == "sync":
            raise Unable("has no sync")
        if tuned and work.kind == "start":
            raise Unable("nothing to tune")

    def command(self, work, tuned, files, environment):
        kind = "copy-one" if work.kind == "start" else work.kind
        in_flight = work.in_flight if work.kind in ("copy-one", "upload-file") or work.name == "mixed" else 64
        flags = [str(in_flight), str(work.part)] if tuned else []
        return [self.python, str(HERE / "boto3_client.py"), kind, *places(work, files), *flags]


class Rclone:
    name = "rclone"

    def __init__(self, _binary, tools):
        self.program = str(tools / "bin" / "rclone")

    def version(self):
        return [self.program, "version"]

    def prepare(self, work, tuned, environment):
        if tuned and work.kind == "start":
            raise Unable("nothing to tune")
        environment |= {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_CONFIG_S_TYPE": "s3",
            "RCLONE_CONFIG_S_ENV_AUTH": "true",
            "RCLONE_CONFIG_S_ENDPOINT": environment["AWS_ENDPOINT_URL_S3"],
            "RCLONE_CONFIG_S_REGION": environment["AWS_REGION"],
            "RCLONE_CONFIG_S_FORCE_PATH_STYLE": "true",
            # rclone checks the ETags of multipart uploads against MD5, which the sandbox does not compute for `--virtual-uploads`.
            "RCLONE_CONFIG_S_PROVIDER": "Other" if work.kind.startswith("upload") else "AWS",
        }
        if work.kind == "upload-file" and work.files[1] < 200 << 20:
            # The same holds for files that rclone sends in one request.
            environment["RCLONE_IGNORE_CHECKSUM"] = "true"

    def command(self, work, tuned, files, environment):
        source, destination = (place.replace("s3://", "s:") for place in places(work, files))
        verb = "copyto" if work.kind in ("copy-one", "upload-file", "start") else "copy"
        flags = []
        if tuned and work.kind.startswith("upload"):
            flags = [
                "--s3-upload-concurrency", str(work.in_flight), "--s3-chunk-size", f"{work.part}Mi",
                "--transfers", str(work.in_flight), "--checkers", "64", "--s3-no-check-bucket", "--s3-no-head",
                "--s3-disable-checksum", "--s3-use-unsigned-payload", "true", "--ignore-checksum",
            ]
        elif tuned and work.kind == "sync":
            flags = ["--checksum", "--fast-list", "--checkers", "256", "--s3-no-check-bucket"]
        elif tuned:
            flags = [
                "--s3-copy-cutoff", f"{work.part}Mi", "--s3-upload-concurrency", str(work.in_flight),
                "--transfers", "1" if work.kind == "copy-one" else "512", "--checkers", "512",
                "--s3-no-check-bucket", "--s3-no-head", "--no-check-dest", "--fast-list",
            ]
            if work.kind == "copy-many":
                # The list has the sizes, so HEADs are not needed. For one object, rclone needs the HEAD.
                flags += ["--s3-no-head-object", "--use-server-modtime", "--no-update-modtime"]
        return [self.program, verb, source, destination, "--log-level", "ERROR", *flags]


class S5cmd:
    name = "s5cmd"

    def __init__(self, _binary, tools):
        # The binary itself. The package's own command starts it from Python, whose time would be measured too.
        self.program = str(next(tools.glob("lib/python*/site-packages/s5cmd/bin/s5cmd")))

    def version(self):
        return [self.program, "version"]

    def prepare(self, work, tuned, environment):
        if tuned and work.kind == "start":
            raise Unable("nothing to tune")
        if tuned and work.kind in ("copy-one",):
            raise Unable("copies in one request only")

    def command(self, work, tuned, files, environment):
        source, destination = places(work, files)
        if work.kind in ("copy-many", "sync", "upload-files"):
            source += "*"
        workers = ["--numworkers", str(max(work.in_flight, 256))] if tuned else []
        parts = []
        if tuned and work.kind == "upload-file":
            parts = ["--concurrency", str(work.in_flight), "--part-size", str(work.part)]
        verb = "sync" if work.kind == "sync" else "cp"
        return [self.program, "--log", "error", *workers, verb, *parts, source, destination]


class Juicefs:
    name = "juicefs"

    def __init__(self, _binary, tools):
        self.program = str(tools / "bin" / "juicefs")

    def version(self):
        return [self.program, "version"]

    def prepare(self, work, tuned, environment):
        if work.kind.startswith("copy"):
            raise Unable("copies by download and upload")
        if tuned and work.kind == "start":
            raise Unable("nothing to tune")

    def command(self, work, tuned, files, environment):
        keys = f"{environment['AWS_ACCESS_KEY_ID']}:{environment['AWS_SECRET_ACCESS_KEY']}"
        host = environment["AWS_ENDPOINT_URL_S3"].removeprefix("http://")
        source, destination = (
            place.replace("s3://", f"minio://{keys}@{host}/") for place in places(work, files)
        )
        flags = ["--threads", str(max(work.in_flight, 64)), "--list-threads", "32"] if tuned else []
        return [self.program, "sync", source, destination, "--no-color", "--quiet", *flags]


CLIENTS = [S3haul, S5cmd, Rclone, Aws, Boto3, Juicefs]
