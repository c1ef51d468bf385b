"""The study: samplers, workers, and what they found."""
