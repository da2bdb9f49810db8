"""Slurm, over SSH."""
