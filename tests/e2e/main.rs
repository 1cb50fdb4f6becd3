//! The stories: one file for each noun, the real programs, really run.

mod bad_input;
mod cli;
mod compare;
mod cri;
mod images;
mod licences;
mod map;
mod restart;
mod shims;
mod tidy;
mod trouble;
