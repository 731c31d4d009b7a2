"""Cluster for experiments by hand, which runs until Ctrl-C:

    python -m tests.cluster

Run the command as root in the repository's root. It prints the path of kubectl's
configuration and the command that runs a program inside the cluster's namespaces.
"""

import shlex
import signal
import sys
import threading

from tests.cluster.cluster import Cluster, prepare


def main() -> None:
    """Start a cluster and wait for a signal."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Cluster(prepare()) as cluster:
        inside = shlex.join(cluster.command())
        sys.stdout.write(f"export KUBECONFIG={cluster.kubeconfig}\n# inside: {inside}\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
