"""MPIJob: mpirun over pods, of the mpi-operator (v2beta1) or the training-operator (v1)."""
