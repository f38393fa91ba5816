"""Decodes the bytes of a provider's response into chunks, a finish or an error. Pure."""
