"""Processes on the Airflow worker itself."""
