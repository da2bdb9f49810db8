"""Clients of the systems' interfaces: asynchronous, without Airflow, importing libraries only when used."""
