"""The noise of cameras: model, published calibrations, and short exposures made from long ones."""
