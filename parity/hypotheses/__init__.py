"""Candidate causes: independent NumPy restatements of the official formulas with the mistakes that ports make as switches.

A room holds one family of formulas. Nothing here knows a seeded fault: a candidate is judged by how much of the difference
between native and reference it reproduces.
"""
