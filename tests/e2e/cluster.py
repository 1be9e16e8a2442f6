"""A namespace on a cluster, controlled with kubectl."""

import contextlib
import copy
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.manifests import Manifest, namespace, one
from tests.support.processes import free_port

DEPLOYMENT = "deployment/model-load-server"
EMULATOR_IMAGE = os.environ.get("EMULATOR_IMAGE", "docker.io/fsouza/fake-gcs-server:1.52.2")
_EMULATOR_PORT = 4443
_LOAD = Path(__file__).with_name("load.py")
_TIMEOUT = "600s"


@dataclass(frozen=True)
class Cluster:
    """A namespace for these tests only.

    Attributes:
        context: the kubectl context; empty for the current one.
        namespace: the name of the namespace.
    """

    context: str
    namespace: str

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run a kubectl command in the namespace and return its output."""
        run = subprocess.run(
            [*self._command(), *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=1800
        )
        assert not check or run.returncode == 0, f"kubectl {' '.join(arguments)}: {run.stdout}{run.stderr}"
        return run.stdout

    def get(self, *what: str) -> Any:
        """Return an object, or the items of a list."""
        found = json.loads(self.kubectl("get", *what, "--output", "json"))
        return found.get("items", found)

    def apply(self, *manifests: Manifest) -> None:
        """Apply the manifests, all of which must be in the namespace."""
        assert {*map(namespace, manifests)} == {self.namespace}
        self.kubectl(
            "apply", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        )

    def run_as_root(self, image: str) -> str:
        """Try to create a pod without restrictions, without keeping it, and return the error."""
        run = subprocess.run(
            [*self._command(), "run", "unrestricted", f"--image={image}", "--dry-run=server"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode != 0, "a pod without restrictions was admitted"
        return run.stderr

    def until_rolled_out(self) -> None:
        """Wait until all pods are from the newest template."""
        self.kubectl("rollout", "status", DEPLOYMENT, f"--timeout={_TIMEOUT}")

    def pods(self) -> list[Any]:
        """Return the server's pods, newest first."""
        pods: list[Any] = self.get("pods", "--selector", "app.kubernetes.io/name=model-load-server")
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)

    @contextlib.contextmanager
    def forwarding(self, target: str, port: int) -> Iterator[str]:
        """Forward a local port to the target's port, and yield the local URL."""
        local = free_port()
        command = [*self._command(), "port-forward", target, f"{local}:{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                assert process.stdout.readline().startswith("Forwarding from")
                yield f"http://127.0.0.1:{local}"
            finally:
                process.terminate()

    def start_emulator(self, manifests: list[Manifest]) -> str:
        """Run fake-gcs-server, and return its URL in the cluster."""
        flags = ["-scheme=http", f"-port={_EMULATOR_PORT}", "-backend=memory"]
        metadata = {"name": "emulator", "namespace": self.namespace}
        selector = {"e2e": "emulator"}
        port = {"port": _EMULATOR_PORT}
        self.apply(
            self._pod(
                manifests, "emulator", {"image": EMULATOR_IMAGE, "args": flags, "readinessProbe": {"tcpSocket": port}}
            ),
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": {"selector": selector, "ports": [port]},
            },
        )
        self.kubectl("wait", "pod/emulator", "--for=condition=Ready", f"--timeout={_TIMEOUT}")
        return f"http://emulator.{self.namespace}:{_EMULATOR_PORT}"

    def allow_emulator(self, namespace: str) -> None:
        """Allow the server's pods to connect to the emulator in this or another namespace."""
        emulator = {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "podSelector": {"matchLabels": {"e2e": "emulator"}},
        }
        self.apply(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "emulator", "namespace": self.namespace},
                "spec": {
                    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "model-load-server"}},
                    "policyTypes": ["Egress"],
                    "egress": [{"to": [emulator], "ports": [{"port": _EMULATOR_PORT}]}],
                },
            }
        )

    def uploading(self) -> contextlib.AbstractContextManager[str]:
        """Forward a local port to the emulator; the context manager yields the local URL."""
        return self.forwarding("pod/emulator", _EMULATOR_PORT)

    @contextlib.contextmanager
    def load(
        self, manifests: list[Manifest], *, threads: int = 4, rows: int = 1, retries: int = 0
    ) -> Iterator[Callable[[], Any]]:
        """Send requests to the service from a pod.

        Yields:
            A function that stops them, and returns the report of load.py.
        """
        options = [str(option) for option in (threads, rows, retries)]
        command = ["python", "-c", _LOAD.read_text(), "http://model-load-server/predict/label", *options]
        [server] = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
        self.apply(self._pod(manifests, "load", {"image": server["image"], "command": command}))
        try:
            self.kubectl("wait", "pod/load", "--for=condition=Ready", f"--timeout={_TIMEOUT}")
            yield self._stop_load
        finally:
            self.kubectl("delete", "pod/load", "--ignore-not-found", "--grace-period=1")

    def _stop_load(self) -> Any:
        self.kubectl("exec", "load", "--", "python", "-c", "open('/tmp/stop', 'w').close()")
        self.kubectl("wait", "pod/load", "--for=jsonpath={.status.phase}=Succeeded", f"--timeout={_TIMEOUT}")
        return json.loads(self.kubectl("logs", "load").splitlines()[-1])

    def _pod(self, manifests: list[Manifest], name: str, container: Manifest) -> Manifest:
        """Return a pod with the same restrictions as the server's."""
        model = one(manifests, "Deployment")["spec"]["template"]["spec"]
        [server] = model["containers"]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "labels": {"e2e": name}},
            "spec": {
                "automountServiceAccountToken": False,
                "restartPolicy": "Never",
                "securityContext": copy.deepcopy(model["securityContext"]),
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "containers": [
                    {
                        "name": name,
                        "securityContext": copy.deepcopy(server["securityContext"]),
                        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 (the pod's own volume)
                        **container,
                    }
                ],
            },
        }

    def _command(self) -> list[str]:
        return ["kubectl", *(["--context", self.context] if self.context else []), "--namespace", self.namespace]
