"""Kubeflow pipelines, and how to run and compile them."""
