"""Structures over spans: bracketings, grammars, nested pairs."""
