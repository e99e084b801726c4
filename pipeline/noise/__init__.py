"""The noise of cameras: a model, published calibrations, and short exposures simulated from long ones."""
