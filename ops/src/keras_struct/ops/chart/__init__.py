"""Structures over the spans of a sequence: one chart program, by width (see `recurrence.md`)."""
