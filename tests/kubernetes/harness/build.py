"""Builds the programs of the control plane, and the image of s3haul as a directory."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from . import HERE, ROOT

CACHE = ROOT / ".ci" / "cache" / "kubernetes"
IMAGE = "registry.test/s3haul:under-test"


def build():
    """Builds the programs if a source has changed since the last build. Returns their directory.

    A build from nothing takes ten minutes of CPU: five minutes on two idle cores, twenty next to six other builds. Go's
    own cache makes later builds fast. The stamp also saves linking 120 MB.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    stamp = CACHE / "stamp"
    state = _state_of_sources()
    if stamp.exists() and stamp.read_text() == state:
        return CACHE
    stamp.unlink(missing_ok=True)
    controlplane = HERE / "controlplane"
    version = re.search(r"k8s.io/kubernetes v(\S+)", (controlplane / "go.mod").read_text())[1]
    major, minor, _ = version.split(".")
    base = "k8s.io/component-base/version"
    # Without these variables, the programs report v0.0.0 to clients.
    flags = "-s -w " + " ".join(
        f"-X {variable}={value}"
        for variable, value in {
            f"{base}.gitVersion": f"v{version}",
            f"{base}.gitMajor": major,
            f"{base}.gitMinor": minor,
            "k8s.io/client-go/pkg/version.gitVersion": f"v{version}",
        }.items()
    )
    _go_build(controlplane, ".", "controlplane", "-ldflags", flags)
    _go_build(controlplane, "./container", "container")
    _go_build(HERE / "etcd", ".", "etcd", "-ldflags", "-s -w")
    stamp.write_text(state)
    return CACHE


def _go_build(module, package, name, *flags):
    print(f"building {name}", flush=True)
    # A compiler process can need a GiB of memory.
    jobs = str(min(4, os.cpu_count() or 2))
    command = ["go", "build", "-p", jobs, "-buildvcs=false", "-o", CACHE / name]
    subprocess.run([*command, *flags, package], cwd=module, env={**os.environ, "CGO_ENABLED": "0"}, check=True)


def _state_of_sources():
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted([*HERE.rglob("*.go"), *HERE.rglob("go.mod"), *HERE.rglob("go.sum")]):
        digest.update(str(path.relative_to(HERE)).encode() + path.read_bytes())
    return digest.hexdigest()


def make_image(images, binary):
    """Makes the image of `deploy/Dockerfile` below the directory of images: the binary, the libraries it links to, and
    the settings of the Dockerfile's last stage. Returns the path of the binary in the image."""
    image = images / IMAGE
    root = image / "rootfs"
    program = root / "usr/local/bin/s3haul"
    program.parent.mkdir(parents=True)
    shutil.copy2(binary, program)
    linked = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(/\S+) \(0x", linked):
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(Path(library).resolve(), target)
    roots = Path("/etc/ssl/certs/ca-certificates.crt")
    if roots.exists():
        target = root / str(roots).lstrip("/")
        target.parent.mkdir(parents=True)
        shutil.copy2(roots, target)
    last_stage = (ROOT / "deploy/Dockerfile").read_text().rsplit("\nFROM ", 1)[1]
    setting = lambda name: re.search(rf"^{name} (.*)$", last_stage, re.MULTILINE)[1]
    config = {
        "Entrypoint": json.loads(setting("ENTRYPOINT")),
        "Cmd": json.loads(setting("CMD")),
        "User": setting("USER"),
    }
    (image / "config.json").write_text(json.dumps(config))
    return program
