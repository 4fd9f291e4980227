"""Judgement: documents that people write, compiled once, and one pure function from a subject to a judgement."""
