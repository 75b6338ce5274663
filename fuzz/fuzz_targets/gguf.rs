//! Any bytes as a GGUF file: an answer or an error, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use selfie_llama::Gguf;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(gguf) = Gguf::parse(bytes.to_vec(), Path::new("fuzz.gguf")) {
        let _ = gguf.config();
        let _ = gguf.generation_config();
        let _ = gguf.tokenizer();
    }
});
