"""What a camera's noise is, and short exposures made with it from long ones."""
