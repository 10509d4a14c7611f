"""Coding weights in few bits, and reading them again bit for bit."""
