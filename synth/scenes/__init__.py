"""Random scenes to photograph, composed of the renderer's solids."""
