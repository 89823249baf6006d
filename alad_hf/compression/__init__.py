"""Makers of students: a model in, a smaller model out."""
