"""torchrun Elastic."""
