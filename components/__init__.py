"""Kubeflow components: each is a few lines over one step function of megl_core.

The bodies import what they need, because KFP ships a component as the source of its function.
"""

from megl_core import __version__

IMAGE = f"megl:{__version__}"
"""The image that holds megl_core and its train and data extras, on a cluster. Local runs need none."""
