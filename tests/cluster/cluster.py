"""Kubernetes on this machine: control plane, containerd, a kubelet and kube-proxy.

All processes run in namespaces of their own (keeper.py), so they can't outlive the process
that started them, nor reach anything outside this machine. Its API server can be reached from
outside the namespaces by a port of loopback.
"""

import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.cluster import keeper
from tests.cluster.api import Api, RefusedError, condition, wait
from tests.cluster.namespaces import ADDRESS, API_PORT
from urllib3.exceptions import HTTPError

HERE = Path(__file__).parent
PAUSE = "paring.test/pause:1"
"""Image of a program that ends on a signal, or after its argument ("20s")."""

MACHINES = ("machine-1", "machine-2", "machine-3")
"""Names of the machine and of its replacements; see `Cluster.replace_machine`."""

_PODS = "10.244.0.0/16"
_SERVICES = "10.96.0.0/16"
_ADMIN = "admin"
_ACCOUNTS = {
    _ADMIN: (_ADMIN, "system:masters"),
    "scheduler": ("system:kube-scheduler", ""),
    "controller-manager": ("system:kube-controller-manager", ""),
    "proxy": ("system:kube-proxy", ""),
    **{name: (f"system:node:{name}", "system:nodes") for name in MACHINES},
}
"""User and group of each account that has a token."""


def prepare() -> Path:
    """Install and build what a cluster needs, and return the folder of the binaries.

    Raises:
        RuntimeError: A requirement is missing; the message names it.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    done = subprocess.run(
        [HERE / "prepare.sh", caches / "paring-tests"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"no cluster can be started here:\n{done.stdout}{done.stderr}")
    return Path(done.stdout.splitlines()[-1])


@dataclass
class Cluster:
    """Cluster; a context manager that starts and removes it.

    Attributes:
        binaries: Folder that `prepare` returned.
        folder: Folder of all files that the cluster writes.
        machine: Name of the machine that pods run on.
    """

    binaries: Path
    folder: Path = field(init=False)
    machine: str = field(init=False, default=MACHINES[0])

    def __enter__(self) -> "Cluster":
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._keeper: subprocess.Popen[bytes] | None = None
        name = f"{keeper.PREFIX}{os.getpid()}-"
        self.folder = Path(tempfile.mkdtemp(prefix=name)).resolve()
        try:
            self._open_namespaces()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes and remove all files of the cluster."""
        if self._keeper is not None:
            if self._keeper.stdin is not None:
                self._keeper.stdin.close()
            self._keeper.wait()
        for process in self._processes.values():
            process.wait()
        # If the keeper was killed before it removed the folder.
        keeper.remove(self.folder)

    # Use of a running cluster.

    @property
    def kubeconfig(self) -> Path:
        """Path of the administrator's kubectl configuration, for use outside the namespaces."""
        return self.folder / "kubeconfig"

    def api(self, token: str = "") -> Api:
        """Return a client with that token, or the administrator's client without one."""
        return Api(self._address, self._authority, token or self._tokens[_ADMIN])

    def kubectl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator; with `check`, raise an error with its output."""
        kubectl = Path(sys.executable).with_name("kubectl")
        done = subprocess.run(
            [kubectl, f"--kubeconfig={self.kubeconfig}", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}")
        return done

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs `arguments` inside the cluster's namespaces."""
        return ["nsenter", f"--target={self._first}", "--all", "--wd=/", "--", *arguments]

    def import_image(self, archive: IO[bytes]) -> None:
        """Import the images of an archive, as `podman save` writes it, into the machine."""
        done = subprocess.run(
            self.command(
                "ctr",
                f"--address={self.folder}/containerd.sock",
                "--namespace=k8s.io",
                "images",
                "import",
                "-",
            ),
            stdin=archive,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the image can't be imported:\n{done.stdout.decode()}")

    def log(self, component: str, lines: int = 30) -> str:
        """Return the last lines of a component's log."""
        written = (self.folder / "logs" / f"{component}.log").read_text(errors="replace")
        return "\n".join(written.splitlines()[-lines:])

    def spawn(self, component: str, *arguments: str) -> None:
        """Start a process in the cluster's namespaces, with a log file of its own."""
        log = self.folder / "logs" / f"{component}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as shown:
            self._processes[component] = subprocess.Popen(
                self.command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=shown,
                stderr=shown,
                # Not ended by a terminal's Ctrl-C, but by the namespaces' end.
                start_new_session=True,
            )

    def kill(self, component: str) -> None:
        """Kill a process that was spawned."""
        process = self._processes.pop(component)
        # nsenter waits for the process that is inside, and passes no signal on.
        for inside in keeper.children(process.pid):
            os.kill(inside, signal.SIGKILL)
        process.wait()

    def replace_machine(self) -> None:
        """Remove the machine with everything that runs on it, and start another in its place."""
        gone = self.machine
        self.kill("kubelet")
        self.kill("kube-proxy")
        for group in (keeper.hierarchies()[0] / self.folder.name).rglob("cgroup.procs"):
            for process in group.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
        self.api().delete(f"/api/v1/nodes/{gone}")
        self.machine = MACHINES[MACHINES.index(gone) + 1]
        # It has the images of the one before, but finds none of its pods among its own.
        self._start_kubelet()
        self._start_proxy()

    # Start.

    def _open_namespaces(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._address = f"https://127.0.0.1:{listener.getsockname()[1]}"
            self._keeper = subprocess.Popen(
                [
                    sys.executable,
                    keeper.__file__,
                    str(self.folder),
                    str(listener.fileno()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        if self._keeper.stdout is None:
            raise RuntimeError("a process without its pipe")
        with self._keeper.stdout as answer:
            first = answer.readline()
        if not first:
            raise RuntimeError("the cluster's namespaces could not be set up; see above")
        self._first = int(first)

    def _start(self) -> None:
        self._write_identities()
        self._start_control_plane()
        self._start_containerd()
        _write_pause_image(self.binaries / "pause", self.folder / "pause.tar")
        with (self.folder / "pause.tar").open("rb") as archive:
            self.import_image(archive)
        for root in keeper.hierarchies():
            (root / self.folder.name).mkdir(exist_ok=True)
        self._start_kubelet()
        self._start_proxy()

    def _write_identities(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.folder / "accounts.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        self._tokens = {name: os.urandom(16).hex() for name in _ACCOUNTS}
        rows = [
            f'{self._tokens[name]},{user},{user},"{group}"'
            for name, (user, group) in _ACCOUNTS.items()
        ]
        (self.folder / "tokens.csv").write_text("\n".join(rows) + "\n")

    @property
    def _authority(self) -> Path:
        # Made by the API server itself, and followed by the one who signed it.
        return self.folder / "apiserver" / "apiserver.crt"

    def _write_kubeconfig(self, path: Path, account: str, server: str) -> str:
        cluster = {
            "server": server,
            "certificate-authority": str(self._authority),
            "tls-server-name": "localhost",
        }
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "paring", "cluster": cluster}],
            "users": [{"name": account, "user": {"token": self._tokens[account]}}],
            "contexts": [{"name": "paring", "context": {"cluster": "paring", "user": account}}],
            "current-context": "paring",
        }
        path.write_text(yaml.safe_dump(configuration))
        return str(path)

    def _inside(self, account: str) -> str:
        """Write the kubectl configuration of a component that runs inside, and return its path."""
        return self._write_kubeconfig(
            self.folder / f"{account}.kubeconfig", account, f"https://{ADDRESS}:{API_PORT}"
        )

    def _component(self, name: str, **flags: object) -> None:
        self.spawn(
            name,
            str(self.binaries / "kubernetes"),
            name,
            *(f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items()),
        )

    def _start_control_plane(self) -> None:
        key = self.folder / "accounts.key"
        self.spawn(
            "etcd",
            str(self.binaries / "etcd"),
            f"--data-dir={self.folder}/etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            # What is written needs to outlive no power failure.
            "--unsafe-no-fsync",
        )
        self._component(
            "kube-apiserver",
            etcd_servers="http://127.0.0.1:2379",
            secure_port=API_PORT,
            advertise_address=ADDRESS,
            # Machines have no names that anybody could look up.
            kubelet_preferred_address_types="InternalIP",
            cert_dir=self.folder / "apiserver",
            token_auth_file=self.folder / "tokens.csv",
            authorization_mode="Node,RBAC",
            anonymous_auth="false",
            enable_admission_plugins="NodeRestriction",
            service_account_issuer="https://kubernetes.default.svc.cluster.local",
            service_account_key_file=key,
            service_account_signing_key_file=key,
            service_cluster_ip_range=_SERVICES,
            allow_privileged="true",
        )
        self._wait("kube-apiserver", self._ready)
        self._write_kubeconfig(self.kubeconfig, _ADMIN, self._address)
        self._component(
            "kube-controller-manager",
            kubeconfig=self._inside("controller-manager"),
            root_ca_file=self._authority,
            service_account_private_key_file=key,
            use_service_account_credentials="true",
            leader_elect="false",
            kube_api_qps=200,
            kube_api_burst=200,
            # Machines that are objects only never tell that they are well.
            node_monitor_grace_period="24h",
        )
        self._component(
            "kube-scheduler", kubeconfig=self._inside("scheduler"), leader_elect="false"
        )
        self._wait("kube-controller-manager", self._has_default_account)

    def _ready(self) -> bool:
        # A server that is still starting refuses connections, and then its own caches.
        if not self._authority.exists():
            return False
        try:
            return bool(self.api().get("/readyz") == "ok")
        except (HTTPError, RefusedError):
            return False

    def _has_default_account(self) -> bool:
        return bool(self.api().items("/api/v1/namespaces/default/serviceaccounts"))

    def _start_containerd(self) -> None:
        (self.folder / "cni").mkdir()
        network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": _PODS}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        (self.folder / "cni" / "pods.conflist").write_text(json.dumps(network))
        file = self.folder / "containerd.toml"
        file.write_text(_CONTAINERD.format(folder=self.folder, pause=PAUSE))
        self.spawn("containerd", "containerd", f"--config={file}")
        self._wait("containerd", (self.folder / "containerd.sock").exists)

    def _start_kubelet(self) -> None:
        (self.folder / "resolv.conf").write_text("")
        file = self.folder / "kubelet.yaml"
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{self.folder}/containerd.sock",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.folder.name}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "resolvConf": str(self.folder / "resolv.conf"),
            "podLogsDir": "/var/log/pods",
            "volumePluginDir": str(self.folder / "volume-plugins"),
            # The disk is this machine's, and no concern of the tests.
            "evictionHard": {"memory.available": "100Mi"},
            "imageGCHighThresholdPercent": 100,
            "serializeImagePulls": False,
            "nodeStatusUpdateFrequency": "2s",
            "syncFrequency": "10s",
        }
        file.write_text(yaml.safe_dump(settings))
        self._component(
            "kubelet",
            kubeconfig=self._inside(self.machine),
            config=file,
            root_dir=self.folder / "kubelet",
            hostname_override=self.machine,
            node_ip=ADDRESS,
        )
        self._wait("kubelet", self._machine_ready)

    def _machine_ready(self) -> bool:
        with suppress(RefusedError):
            node = self.api().get(f"/api/v1/nodes/{self.machine}")
            return condition(node, "Ready") == "True" and not node["spec"].get("taints")
        return False

    def _start_proxy(self) -> None:
        file = self.folder / "proxy.yaml"
        settings: Mapping[str, Any] = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": self._inside("proxy")},
            "clusterCIDR": _PODS,
            "hostnameOverride": self.machine,
            # What a network namespace may not set.
            "conntrack": {"maxPerCore": 0, "min": 0},
            "oomScoreAdj": 0,
        }
        file.write_text(yaml.safe_dump(settings))
        self._component("kube-proxy", config=file)

    def _wait(self, component: str, done: Any, seconds: float = 90) -> None:
        def ended_or_done() -> bool:
            code = self._processes[component].poll()
            if code is not None:
                raise RuntimeError(f"{component} ended with {code}:\n{self.log(component)}")
            return bool(done())

        try:
            wait(component, ended_or_done, seconds)
        except TimeoutError as error:
            raise RuntimeError(f"{error}:\n{self.log(component)}") from error


_CONTAINERD = """\
version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{folder}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Root may not lower it where it runs inside a sandbox.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folder}/cni"
"""


def _write_pause_image(program: Path, archive: Path) -> None:
    """Write an archive with an image of a static program."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        files.add(program, "pause", filter=_owned_by_root)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65532:65532"},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"],
        },
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, mode="w") as files:
        for name, content in (
            ("manifest.json", json.dumps(manifest).encode()),
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", layer.getvalue()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            files.addfile(entry, io.BytesIO(content))


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
