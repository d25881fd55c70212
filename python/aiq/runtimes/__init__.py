"""Runtimes: what executes a plan for real."""
