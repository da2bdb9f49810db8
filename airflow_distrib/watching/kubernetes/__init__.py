"""Waiting for jobs on Kubernetes: one list and watch for all of a kind in a namespace."""
