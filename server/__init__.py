"""Tokentape, the product: LLM answers, appended to the log before anyone sees them, served from it."""

__version__ = "0.1.0"
