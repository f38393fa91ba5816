"""Tests of the upstream room, and the fake provider that other rooms' tests start as a process."""
