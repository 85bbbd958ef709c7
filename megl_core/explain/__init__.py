"""Pictures in; class, heat map and rationale out."""

from megl_core.explain.explainer import Explained, Explainer, explain_files, load_model
from megl_core.explain.panel import render_panel

__all__ = ["Explained", "Explainer", "explain_files", "load_model", "render_panel"]
