//! Any bytes, written as an image: it holds what the folder would, or is refused as the folder is.
#![no_main]

#[path = "../checks/layers.rs"]
mod layers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| layers::into_image(bytes));
