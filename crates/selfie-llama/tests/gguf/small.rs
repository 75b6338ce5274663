//! A small file with every feature that a header can have, and copies with one byte changed.

use crate::file::{ALIGNMENT, File, Meta, Tensor, parse};

/// A file with two tensors, of 128 and of 32 bytes.
pub(crate) fn file() -> File {
    File::model("llama", &[("a.list", Meta::F32s(vec![1.0, 2.0]))])
        .tensor("blk.0.attn_norm.weight", Tensor::zeros(&[8]))
}

/// Reads everything that a model needs from a file. The result does not matter, only that there is one.
pub(crate) fn read(bytes: Vec<u8>) -> bool {
    let Ok(gguf) = parse(bytes) else {
        return false;
    };
    let all = [
        gguf.config().is_ok(),
        gguf.generation_config().is_ok(),
        gguf.tokenizer().is_ok(),
    ];
    all.iter().all(|ok| *ok)
}

/// A file with every feature that a header can have.
pub(crate) fn small() -> Vec<u8> {
    let texts = |list: &[&str]| Meta::Texts(list.iter().map(|text| (*text).to_owned()).collect());
    let mut file = file();
    for (key, value) in [
        ("tokenizer.ggml.model", Meta::Text("gpt2")),
        ("tokenizer.ggml.pre", Meta::Text("gpt-2")),
        ("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "<end>"])),
        ("tokenizer.ggml.token_type", Meta::I32s(vec![1, 1, 1, 3])),
        ("tokenizer.ggml.merges", texts(&["a b"])),
        ("tokenizer.ggml.eos_token_id", Meta::U32(3)),
        ("llama.rope.freq_base", Meta::F32(500_000.0)),
        ("general.alignment", Meta::U32(ALIGNMENT as u32)),
    ] {
        file.set(key, value);
    }
    let freqs = Tensor::f32(&[2], &[1.0, 1.0]);
    file.tensor("rope_freqs.weight", freqs).bytes()
}

/// Copies of a file with one byte changed, and the position of that byte.
pub(crate) fn changed(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len()).flat_map(move |at| {
        let was = bytes[at];
        let values = [
            0,
            1,
            0x7f,
            0x80,
            0xff,
            was ^ 1,
            was ^ 0x10,
            was.wrapping_add(1),
        ];
        values.into_iter().map(move |value| {
            let mut bytes = bytes.to_vec();
            bytes[at] = value;
            (at, bytes)
        })
    })
}
