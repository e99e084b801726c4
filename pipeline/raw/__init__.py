"""Read one RAW file: header, mosaic, development, colours, amplification; the Source protocol."""
