"""Losses, one file for each family, and the weighted objective that joins them.

Every loss is exact under data-parallel training: averaged by DistributedDataParallel, the gradients of
several processes are those of one process that sees the whole batch.
"""
