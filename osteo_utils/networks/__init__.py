"""The architectures, how they are trained, what identifies and what they cost."""
