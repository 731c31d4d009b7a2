"""First process of a cluster's namespaces, which sets them up and relays to the API server.

    python namespaces.py FOLDER LISTENER

keeper.py starts it with process, mount, network and other namespaces of its own.
LISTENER is a listening socket of the outer network; each connection to it goes to the API
server in here. FOLDER is the cluster's. The line "ready" on standard output says that the
namespaces are set up. As the first process it also reaps every orphan.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ADDRESS = "192.168.77.1"
"""Address of the machine in its network namespace, which pods reach too."""

API_PORT = 6443

# Folders that the kubelet, containerd and their plugins write to, whatever their configuration.
_FOLDERS = ("/run", "/var/log", "/var/lib/cni", "/var/lib/kubelet", "/var/lib/containerd")

_DISK_BYTES = 40 * 10**9

# What the kubelet sets for the whole machine. It gets files to write to in their place.
_KERNEL_FLAGS = {
    "kernel/keys/root_maxbytes": "25000000",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
}


def _command(*arguments: str) -> None:
    subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def _set_up(folder: Path) -> None:
    _command("mount", "--make-rshared", "/")
    # The tens of thousands of files of an image, in a file system of their own without a
    # journal: to write it takes half as long, and to remove it no time.
    disk = folder / "containerd.ext4"
    with disk.open("wb") as file:
        file.truncate(_DISK_BYTES)
    _command("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1", str(disk))
    (folder / "containerd").mkdir()
    _command("mount", "-o", "loop,noatime", str(disk), str(folder / "containerd"))
    for path in _FOLDERS:
        own = folder / "machine" / path.strip("/").replace("/", "-")
        own.mkdir(parents=True)
        Path(path).mkdir(parents=True, exist_ok=True)
        _command("mount", "--bind", str(own), path)
    flags = folder / "machine" / "flags"
    for name, value in _KERNEL_FLAGS.items():
        own = flags / name
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(f"{value}\n")
        _command("mount", "--bind", str(own), f"/proc/sys/{name}")
    _command("ip", "link", "set", "lo", "up")
    _command("ip", "link", "add", "machine0", "type", "bridge")
    _command("ip", "address", "add", f"{ADDRESS}/24", "dev", "machine0")
    _command("ip", "link", "set", "machine0", "up")
    # It leads nowhere, but without one programs find no address of their own.
    _command("ip", "route", "add", "default", "dev", "machine0")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", API_PORT)
    except OSError:
        # As where nothing listens.
        writer.close()
        return
    await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
    inner_writer.close()
    writer.close()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return


async def _serve(listener: int) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, _reap)
    # asyncio itself holds its tasks weakly.
    relayed: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_relay(reader, writer))
        relayed.add(task)
        task.add_done_callback(relayed.discard)

    server = await asyncio.start_server(connected, sock=socket.socket(fileno=listener))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    _set_up(Path(sys.argv[1]))
    asyncio.run(_serve(int(sys.argv[2])))
