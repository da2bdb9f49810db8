"""Pure values and rules: no Airflow, no client library, no input or output beyond this process."""
