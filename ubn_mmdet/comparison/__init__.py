"""Comparisons of norms: runs, results, statistics, reports."""
