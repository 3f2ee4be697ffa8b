"""Recordings, and what is recorded."""
