"""Waiting for jobs: one watch for all that wait in the same place."""
