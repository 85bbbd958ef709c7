"""MEGL: image classifiers that learn from labels, masks and rationales, with provenance.

Importing this package loads no framework; every submodule names what it needs.
"""

__version__ = "0.1.0"
