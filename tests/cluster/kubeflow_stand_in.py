"""Kubeflow API and object store inside the cluster's namespaces, for pods to call.

    python kubeflow_stand_in.py FOLDER SOURCE EXAMPLES

FOLDER/kfp.sqlite is the state of `KfpServer`, which is Kubeflow's API as its client knows it,
without anything behind it. The store is moto's S3 server. It has finished outputs of training
below the URI SOURCE, numbered from 1 to `OUTPUTS`, and an object at EXAMPLES. FOLDER/ready
appears when both answer.
"""

import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from moto.server import ThreadedMotoServer
from tests.cluster.namespaces import ADDRESS
from tests.conformance.kfp_server import KfpServer

API_PORT = 8888
STORE_PORT = 9000
OUTPUTS = 5
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


def serve(folder: Path, source: str, examples: str) -> None:
    """Answer until the process is ended."""
    ThreadedMotoServer(ip_address=ADDRESS, port=STORE_PORT, verbose=False).start()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{ADDRESS}:{STORE_PORT}",
        region_name="us-east-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )
    outputs = [f"{source}/{number + 1}/saved_model.pb" for number in range(OUTPUTS)]
    for uri in (examples, *outputs):
        parts = urlsplit(uri)
        client.create_bucket(Bucket=parts.netloc)
        client.put_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"), Body=uri.encode())
    with KfpServer(folder / "kfp.sqlite", address=(ADDRESS, API_PORT)) as server:
        (folder / "ready").touch()
        threading.Event().wait()
        raise RuntimeError(f"{server.url} ended")


if __name__ == "__main__":
    serve(Path(sys.argv[1]), *sys.argv[2:])
