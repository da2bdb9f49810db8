"""What all jobs on Kubernetes share: options, pods, submission, judgement, logs."""
