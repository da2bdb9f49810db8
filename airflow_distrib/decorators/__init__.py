"""``@task.<name>`` for every operator that takes a function."""
