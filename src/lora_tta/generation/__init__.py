"""Continuations of clips, and the yardsticks beside them."""
