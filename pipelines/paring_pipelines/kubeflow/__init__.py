"""The pipeline on a Kubeflow cluster: submitted, scheduled, triggered, followed, fetched."""
