"""Tools for data sets: record, convert, describe, draw, check."""
