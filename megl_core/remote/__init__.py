"""A training in processes of its own: several on this machine, or on the nodes of a cluster."""
