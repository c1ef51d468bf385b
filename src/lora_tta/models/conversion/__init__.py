"""Published checkpoints to the layout of diffusers."""
