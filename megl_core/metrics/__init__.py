"""Metrics as plain functions over arrays and lists; none knows a model or a dataset."""
