"""Read one RAW file: header, mosaic, development, colours, amplification; and the Source protocol."""
