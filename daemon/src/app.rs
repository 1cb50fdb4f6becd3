//! Wiring: the one place that knows the concrete type of every part, builds them in order, serves, and drains.
