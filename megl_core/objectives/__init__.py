"""Losses, one file for each family, and the weighted objective that joins them.

Every loss is exact under data-parallel training: for the same network outputs, the gradients of several
processes, averaged by DistributedDataParallel, are those of one process that sees the whole batch. (The
outputs differ a little: batch norm has the statistics of each process's own share.)
"""
