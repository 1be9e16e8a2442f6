"""Pods under podman, each created from the pod template of a Deployment."""

import contextlib
import copy
import json
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import yaml

from tests.support.manifests import Manifest, one
from tests.support.processes import free_port, until

LOADER = "model-loader"
SERVER = "model-server"
# A pod starts in a second or two, and its server in three to five more.
_START_SECONDS = 180
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@dataclass
class Pod:
    """A pod and a client for its published port.

    Attributes:
        name: the name of the pod.
        manifests: the manifests that the pod was created from.
        client: an HTTP client for the server.
        server: the name of the server's container.
    """

    name: str
    manifests: list[Manifest]
    client: httpx.Client
    server: str

    def container(self, name: str) -> str:
        """Return podman's name of the container."""
        return f"{self.name}-{name}"

    def state(self, name: str) -> Any:
        """Return the container's state from `podman inspect`."""
        [inspected] = json.loads(podman("inspect", self.container(name)))
        return inspected["State"]

    def logs(self, name: str) -> str:
        """Return the container's output."""
        return podman("logs", self.container(name), stderr=subprocess.STDOUT)

    def python(self, code: str) -> str:
        """Run Python code in the server's container and return its output."""
        return podman("exec", self.container(self.server), "python", "-c", code)

    def until_ready(self) -> None:
        """Wait until all probes of the template succeed."""
        [server] = one(self.manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
        for probe in _PROBES:
            until(partial(self._answers, server[probe]["httpGet"]["path"]), _START_SECONDS)

    def exit_code(self) -> int:
        """Wait until the server's container has exited, and return its exit code."""
        until(lambda: self.state(self.server)["Status"] == "exited", _START_SECONDS)
        return int(self.state(self.server)["ExitCode"])

    def _answers(self, path: str) -> bool:
        if self.state(self.server)["Status"] != "running":
            output = podman("pod", "logs", self.name, stderr=subprocess.STDOUT, check=False)
            raise RuntimeError(f"the server is {self.state(self.server)['Status']}:\n{output}")
        with contextlib.suppress(httpx.TransportError):
            return self.client.get(path).status_code == 200
        return False


@contextlib.contextmanager
def playing(manifests: list[Manifest], network: str, command: Sequence[str] = ()) -> Iterator[Pod]:
    """Run the Deployment's template as a pod, and yield it, whether its init container succeeds or not.

    The server's container runs `command`, if given, in place of its image's.

    Podman runs HTTP probes only with curl in the image, so `Pod.until_ready` sends the requests. Pods with the same
    volume name would share the volume, so the names are made unique. Podman supports no init containers in Deployments,
    so this is a bare pod.
    """
    name = f"e2e-{secrets.token_hex(4)}"
    pod = copy.deepcopy(one(manifests, "Deployment")["spec"]["template"])
    port = free_port()
    for container in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
        for mount in container["volumeMounts"]:
            mount["name"] = f"{name}-{mount['name']}"
    for volume in pod["spec"]["volumes"]:
        volume["name"] = f"{name}-{volume['name']}"
    [server] = pod["spec"]["containers"]
    if command:
        server["command"] = list(command)
    server["ports"][0] |= {"hostIP": "127.0.0.1", "hostPort": port}
    for probe in _PROBES:
        del server[probe]
    pod |= {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": pod["metadata"]["labels"]}}
    pod["spec"]["restartPolicy"] = "Never"
    document = yaml.safe_dump_all([*(made for made in manifests if made["kind"] == "ConfigMap"), pod])
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        try:
            played = podman(
                "kube", "play", "--network", network, "-", stdin=document, stderr=subprocess.STDOUT, check=False
            )
            print(played)  # pytest shows it when a test fails
            yield Pod(name, manifests, client, server["name"])
        finally:
            podman("pod", "rm", "--force", "--time", "0", name, check=False)


@contextlib.contextmanager
def network() -> Iterator[str]:
    """Create a network for this run, and yield its name."""
    name = f"e2e-{secrets.token_hex(4)}"
    podman("network", "create", name)
    try:
        yield name
    finally:
        podman("network", "rm", "--force", "--time", "0", name)


@contextlib.contextmanager
def running(image: str, network: str, options: Mapping[str, str], *command: str) -> Iterator[str]:
    """Run a container in the network, and yield its address there."""
    flags = [f"--{option}={value}" for option, value in options.items()]
    container = podman("run", "--detach", "--rm", "--network", network, *flags, image, *command).strip()
    try:
        [inspected] = json.loads(podman("inspect", container))
        yield inspected["NetworkSettings"]["Networks"][network]["IPAddress"]
    finally:
        podman("rm", "--force", "--time", "0", container)


def answers(url: str, headers: Mapping[str, str] | None = None) -> bool:
    """Return whether the URL answers with 200."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, headers=headers).status_code == 200
    return False


def podman(*arguments: str, check: bool = True, stderr: int = subprocess.PIPE, stdin: str | None = None) -> str:
    """Run a podman command and return its output."""
    run = subprocess.run(
        ["podman", *arguments],  # noqa: S607
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=False,
    )
    assert not check or run.returncode == 0, f"podman {' '.join(arguments)}: {run.stderr}"
    return run.stdout
