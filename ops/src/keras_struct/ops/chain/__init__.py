"""Structures over time: categorical, linear chain, semi-Markov, CTC, subset of size k."""
