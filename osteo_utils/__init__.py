"""Helpers of the course on classifying knee radiographs; each module is one subject.

Nothing is imported or run here, so ``import osteo_utils`` stays instant and free of TensorFlow.
"""

__version__ = "0.1.0"

# Said wherever a network answers about a film.
NOTICE = "For teaching and research only: not a medical device, and no advice about any person."
