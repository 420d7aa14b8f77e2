"""A copy of an overlay of `deploy/`, edited and applied as deploy/README.md says: endpoint, image, namespace, N, and P.

The rest of what a scenario needs from a pod is set outside the overlay. For example, `World.keep_on_own_nodes` makes
the namespace keep its pods on its own nodes.
"""

import re
import shutil

import yaml

from . import ROOT
from .build import IMAGE

# Maps each overlay to the file with its N and P.
SIZES = {"indexed-job": "indexed-job.yaml", "indexed-cronjob": "shards.yaml"}


class Overlay:
    def __init__(self, world, name, shards, pods, manifest=None):
        """`manifest`, if given, edits the parsed job manifest, as an operator would."""
        self.world = world
        self.deploy = world.directory / "deploy"
        shutil.copytree(ROOT / "deploy", self.deploy)
        self.directory = self.deploy / "overlays" / name
        self.size = SIZES[name]
        endpoint = {"https://s3.example.internal": world.server.url, "eu-central-1": world.server.region}
        self._edit("keys.yaml", endpoint)
        repository, tag = IMAGE.split(":")
        image = re.search(r"newName: (\S+), newTag: ([^}\s]+)", self._read("kustomization.yaml"))
        self._edit("kustomization.yaml", {image[1]: repository, image[2]: tag, "namespace: data": f"namespace: {world.namespace}"})
        self._edit("namespace.yaml", {"name: data": f"name: {world.namespace}"})
        self.shards, self.pods = shards, pods
        self.set("completions", shards)
        self.set("parallelism", pods)
        self.set("maxFailedIndexes", shards // 10)
        job = yaml.safe_load(self._read("job.yaml"))
        # Shared state needs a server that is known to honor If-None-Match.
        job["endpoints"]["default"]["provider"] = "aws"
        if manifest:
            manifest(job)
        (self.directory / "job.yaml").write_text(yaml.safe_dump(job))

    def apply(self, check=True):
        return self.world.kubectl("apply", "-k", self.directory, check=check)

    def resize(self, pods):
        """Changes P, as deploy/README.md says."""
        self.set("parallelism", pods)
        self.pods = pods
        self.apply()

    def edit_manifest(self, old, new):
        self._edit("job.yaml", {old: new})

    def rename(self, old, new):
        """Renames the Job. Another name means another run."""
        self._edit(self.size, {f"name: {old}\n": f"name: {new}\n"})

    def _read(self, file):
        return (self.directory / file).read_text()

    def _edit(self, file, replacements):
        text = self._read(file)
        for old, new in replacements.items():
            assert old in text, f"{old!r} is not in {file}"
            text = text.replace(old, str(new))
        (self.directory / file).write_text(text)

    def set(self, field, value):
        """Sets a number of the Job: `completions`, `parallelism`, or `maxFailedIndexes`."""
        text, count = re.subn(rf"(?m)^( *{field}: )\d+$", rf"\g<1>{value}", self._read(self.size))
        assert count == 1, f"{self.size} has {field} {count} times"
        (self.directory / self.size).write_text(text)
