"""Random scenes to photograph, made from the renderer's solids."""
