"""Every op's equation in plain torch: readable, any dtype, differentiable. Oracle, fallback and bench baseline."""
