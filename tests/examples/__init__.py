"""Tests of the apps in `examples/` and of the page that walks to them."""
