//! Kernel calls that nix and rustix lack. The only place of the project where `unsafe` is at home; one call a function.
