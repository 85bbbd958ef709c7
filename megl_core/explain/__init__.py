"""Pictures in; class, heat map and rationale out. And what a model's card says of it."""
