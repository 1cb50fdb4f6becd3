//! Any bytes, unpacked into a folder: nothing outside changes, and nothing panics.
#![no_main]

#[path = "../checks/layers.rs"]
mod layers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| layers::into_folder(bytes));
