"""A plain Pod: one node of Elastic needs no operator."""
