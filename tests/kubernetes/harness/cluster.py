"""Starts a control plane with its nodes: on 127.0.0.1, on free ports, in a temporary directory."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .api import Api, Watch
from .build import build, make_image
from .processes import Processes, free_ports

# The controllers that deal with Jobs, pods, nodes, and namespaces. The others would only take time.
CONTROLLERS = (
    "job,cronjob,ttl-after-finished,garbagecollector,podgc,disruption,taint-eviction-controller,nodelifecycle,namespace,"
    "serviceaccount,root-ca-certificate-publisher-controller"
)


class Cluster:
    def __init__(self, binary, nodes=2, keep=False):
        self.programs = build()
        self.directory = Path(tempfile.mkdtemp(prefix="s3haul-kubernetes-"))
        self.keep = keep
        self.logs = self.directory / "logs"
        self.logs.mkdir()
        self.images = self.directory / "images"
        # The kubelets archive the logs of pods here, as NAMESPACE/POD/CONTAINER.log.
        self.archive = self.directory / "archive"
        self.kubeconfig = self.directory / "kubeconfig"
        self.processes = Processes(self.logs)
        self._token = secrets.token_hex(16)
        self._nodes = {}
        self._controllers = threading.Lock()
        self.binary = make_image(self.images, binary)
        try:
            self._start(nodes)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if hasattr(self, "watch"):
            self.watch.close()
        self.processes.close()
        if self.keep:
            print(f"kept: {self.directory}")
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _start(self, nodes):
        etcd, peers, api, scheduler, controllers = free_ports(5)
        self._write_keys(api)
        self._start_etcd(etcd, peers)
        self._start_api_server(api, etcd)
        self.api = Api(f"https://127.0.0.1:{api}", self._token)
        self._until_ready()
        self.controller_port = controllers
        self._start_controller_manager()
        self._run("scheduler", f"--secure-port={scheduler}", f"--kubeconfig={self.kubeconfig}", *self._alone)
        for number in range(nodes):
            self.add_node(f"node-{number}")
        self.watch = Watch(self.api)
        self._until(self._are_nodes_ready, "the nodes to be ready")

    _alone = ("--leader-elect=false", "--bind-address=127.0.0.1")

    def _run(self, command, *flags):
        return self.processes.start(command, [self.programs / "controlplane", command, *flags])

    def _write_keys(self, port):
        key, public = self.directory / "sa.key", self.directory / "sa.pub"
        made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        key.write_bytes(made.private_bytes(serialization.Encoding.PEM, form, plain))
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        public.write_bytes(made.public_key().public_bytes(serialization.Encoding.PEM, form))
        (self.directory / "tokens.csv").write_text(f'{self._token},admin,1,"system:masters"\n')
        cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self._token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }
        # A kubeconfig is YAML, and JSON is valid YAML.
        self.kubeconfig.write_text(json.dumps(config))
        self.kubeconfig.chmod(0o600)

    def _start_etcd(self, port, peers):
        clients, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
        command = [self.programs / "etcd", "--data-dir", self.directory / "etcd", "--unsafe-no-fsync"]
        urls = ["--listen-client-urls", clients, "--advertise-client-urls", clients, "--listen-peer-urls", peer]
        self.processes.start("etcd", [*command, *urls])

    def _start_api_server(self, port, etcd):
        self._run(
            "apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self.directory / 'pki'}",
            "--endpoint-reconciler-type=none",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.directory / 'sa.pub'}",
            f"--service-account-signing-key-file={self.directory / 'sa.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            # Without this plugin, a new node has no taint before its first report. All other default plugins stay on: a
            # missing ServiceAccount, for instance, is an error.
            "--disable-admission-plugins=TaintNodesByCondition",
            # With these, a namespace can keep its pods on its own nodes, whatever their manifests say
            # (`World.keep_on_own_nodes`).
            "--enable-admission-plugins=PodNodeSelector,PodTolerationRestriction",
            "--enable-priority-and-fairness=false",
        )

    @contextlib.contextmanager
    def without_controller_manager(self):
        """Kills the controller manager, and starts it again when the block ends. Only one scenario can use it at a
        time."""
        with self._controllers:
            self._controller_manager.kill()
            self._controller_manager.wait()
            try:
                yield
            finally:
                self._start_controller_manager()

    def _start_controller_manager(self):
        self._controller_manager = self._run(
            "controller-manager",
            f"--secure-port={self.controller_port}",
            f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={self.directory / 'sa.key'}",
            f"--root-ca-file={self.directory / 'pki/apiserver.crt'}",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            f"--controllers={CONTROLLERS}",
            *self._alone,
        )

    def add_node(self, name, label=None, **resources):
        """Starts a kubelet. A label NAME=VALUE is also a taint, so only pods that tolerate it run on this node."""
        flags = [f"--{key}={value}" for key, value in resources.items()]
        if label:
            flags += [f"--label={label}", f"--taint={label}:NoSchedule"]
        root = self.directory / "nodes" / name
        command = [self.programs / "controlplane", "kubelet", f"--node={name}", f"--root={root}"]
        paths = [f"--kubeconfig={self.kubeconfig}", f"--images={self.images}", f"--archive={self.archive}"]
        runtime = f"--runtime={self.programs / 'container'}"
        kubelet = self.processes.start(f"kubelet-{name}", [*command, *paths, runtime, *flags])
        self._nodes[name] = kubelet
        return kubelet

    def kubelet(self, name):
        return self._nodes[name]

    def node_directory(self, name):
        return self.directory / "nodes" / name

    def _until_ready(self):
        def is_ready():
            with self.api.open("/readyz"):
                pass
            for namespace in ("default", "kube-node-lease"):
                with self.api.open(f"/api/v1/namespaces/{namespace}"):
                    pass
            return True

        self._until(is_ready, "the API server to be ready")

    def _are_nodes_ready(self):
        nodes = self.api.call("/api/v1/nodes")["items"]
        conditions = [each for node in nodes for each in node["status"].get("conditions", [])]
        return sum(each["type"] == "Ready" and each["status"] == "True" for each in conditions) == len(self._nodes)

    def _until(self, condition, what):
        until = time.monotonic() + 120
        while True:
            try:
                if condition():
                    return
            except OSError as error:
                last = error
            else:
                last = None
            if time.monotonic() > until:
                raise AssertionError(f"waited 120 s for {what} ({last}); see {self.logs}")
            time.sleep(0.2)

    def kubectl(self, *arguments, check=True, **options):
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        done = subprocess.run(
            ["kubectl", *map(str, arguments)], env=environment, capture_output=True, text=True, check=False, **options
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr}")
        return done.stdout
