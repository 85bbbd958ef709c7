"""What a run needs before it begins, and what is done when it has ended. Imports no framework."""
