"""Tests of the web room's parts that need no server: cursors, bodies, guards, shapes, the seam."""
