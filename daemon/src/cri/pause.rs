//! The image of pods' first processes.
