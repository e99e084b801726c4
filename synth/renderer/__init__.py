"""Render synthetic scenes: solids with textures, in soft light."""
