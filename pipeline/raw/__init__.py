"""One RAW file to numbers: header, mosaic, development, colours, amplification."""
