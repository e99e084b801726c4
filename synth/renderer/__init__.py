"""Light on solids and textures: the renderer behind the synthetic scenes."""
