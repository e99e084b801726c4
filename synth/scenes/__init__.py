"""Scenes to photograph, and the things that stand in them."""
