"""Legato: every request is a continuation, and a continuation is exact."""
