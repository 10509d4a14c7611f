"""Exported models, and the fresh Python processes in which they are converted, run and timed."""
