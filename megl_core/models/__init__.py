"""The MEGL model and its parts: backbone, saliency, grounding, decoder."""
