//! The GPU backend on a simulated GPU, for tests.
