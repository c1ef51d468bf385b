"""One clip through adaptation, generation and measurement."""
