//! The stories: one file for each noun, the real programs, really run.

mod bad_input;
mod cli;
mod compare;
mod cri;
mod doctor;
mod images;
mod journal;
mod licences;
mod map;
mod migrate;
mod monitor;
mod restart;
mod shims;
mod tidy;
mod trouble;
