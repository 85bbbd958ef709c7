"""Training on a Kubernetes cluster: one TrainJob of Kubeflow Trainer, from its creation to its end."""
