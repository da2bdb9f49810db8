"""PyTorchJob of the Kubeflow training-operator."""
