"""Measures of frames, clips and arms, and their statistics."""
