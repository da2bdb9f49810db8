"""The hook reads the standard connection, as Airflow's own provider writes it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_distrib.core.errors import ConfigError
from airflow_distrib.hooks.kubernetes import KubernetesHook


def connect(monkeypatch: pytest.MonkeyPatch, **extra: Any) -> KubernetesHook:
    """A hook whose connection has this extra."""
    value = json.dumps({"conn_type": "kubernetes", "extra": extra})
    monkeypatch.setenv("AIRFLOW_CONN_LAB", value)
    return KubernetesHook("lab")


def test_every_field_of_the_connection_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that were made for Airflow's own provider work here, also with old, prefixed names of fields."""
    hook = connect(
        monkeypatch,
        kube_config_path="/k",
        cluster_context="prod",
        extra__kubernetes__namespace="ml",
        disable_verify_ssl="True",
    )
    settings = hook.settings()
    assert (settings.kube_config_path, settings.context, settings.namespace) == ("/k", "prod", "ml")
    assert (settings.verify_tls, settings.in_cluster) == (False, None)


def test_a_kubeconfig_may_be_in_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers need no file of their own, whether the kubeconfig is stored as text or as a mapping."""
    both: tuple[object, ...] = ({"clusters": []}, '{"clusters": []}')
    for given in both:
        assert connect(monkeypatch, kube_config=given).settings().kube_config == {"clusters": []}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"in_cluster": True, "kube_config_path": "/k"},
            "connection 'lab': sets in_cluster and kube_config_path; set only one of them",
        ),
        ({"in_cluster": "perhaps"}, "connection 'lab' in_cluster: must be True or False; got 'perhaps'"),
        ({"kube_config": "clusters: []"}, "connection 'lab': kube_config must be a kubeconfig as JSON"),
    ],
)
def test_a_field_that_cannot_work_is_named(
    extra: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the connection and the field, which the bare error of a client would not."""
    with pytest.raises(ConfigError, match=message):
        connect(monkeypatch, **extra).settings()


def test_an_unknown_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped id must not quietly lead to another cluster, so only the default connection may be missing."""
    with pytest.raises(ConfigError, match="there is no connection 'typo'"):
        KubernetesHook("typo").settings()
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="there is no connection 'kubernetes_default', this is no pod of a cluster"):
        KubernetesHook().settings()
    monkeypatch.setenv("KUBECONFIG", "/k")
    assert KubernetesHook().settings().namespace == "default"


def test_the_test_button_shows_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator sees which file is missing instead of a traceback."""
    works, text = connect(monkeypatch, kube_config_path="/no/such/file").test_connection()
    assert not works
    assert "the kubeconfig is /no/such/file" in text
