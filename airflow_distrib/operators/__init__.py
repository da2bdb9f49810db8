"""Airflow operators: a config, a function, and the way from one to the other."""
