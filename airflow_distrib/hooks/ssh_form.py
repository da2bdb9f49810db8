"""The form of connections of type ``ssh``, apart from their hook: Airflow reads it at every start."""

from __future__ import annotations

from airflow_distrib.hooks.fields import FLAG, SECRET, TEXT, Fields

HIDDEN = ["schema"]

FIELDS: Fields = {
    "key_file": ("Path of a private key where Airflow runs", TEXT),
    "private_key": ("Private key", SECRET),
    "private_key_passphrase": ("Passphrase of the private key", SECRET),
    "certificate": ("Certificate of the private key", TEXT),
    "host_key": ("The host's public key", TEXT),
    "known_hosts": ("Or known_hosts: a path, or its lines", TEXT),
    "no_host_key_check": ("Trust any host key", FLAG),
    "jump_conn_id": ("Connection to a jump host", TEXT),
    "slurm_path": ("Folder of Slurm's commands", TEXT),
    "workdir": ("Shared folder for jobs", TEXT),
}
