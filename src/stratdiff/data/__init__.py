"""Data sets and replay buffers."""
