"""Waiting for jobs on Slurm: one squeue for all of a user, and their output over SFTP."""
