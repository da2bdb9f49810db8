"""Clients of the systems' interfaces: asynchronous, without Airflow, each importing its library when it is first used."""
