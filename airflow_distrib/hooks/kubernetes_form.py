"""The form of connections of type ``kubernetes``, apart from their hook: Airflow reads it at every start."""

from __future__ import annotations

from airflow_distrib.hooks.fields import FLAG, SECRET, TEXT, Fields

HIDDEN = ["host", "schema", "login", "password", "port", "extra"]

FIELDS: Fields = {
    "in_cluster": ("Use the pod's own service account", FLAG),
    "kube_config_path": ("Path of a kubeconfig", TEXT),
    "kube_config": ("Kubeconfig (JSON)", SECRET),
    "cluster_context": ("Context of the kubeconfig", TEXT),
    "namespace": ("Namespace", TEXT),
    "disable_verify_ssl": ("Trust any certificate", FLAG),
}
