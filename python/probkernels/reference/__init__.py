"""Every op's equation in plain torch: readable, any dtype, differentiable. The oracle of tests, the fallback, and the
baseline of benchmarks."""
