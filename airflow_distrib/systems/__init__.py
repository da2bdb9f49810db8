"""One folder per system: what its jobs are made of, and how they are run and watched."""
