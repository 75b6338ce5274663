//! Files that lie. Each lie gives one error, and uses no more memory than the size of the file.

use std::panic::catch_unwind;

use crate::file::{Meta, Tensor, parse, refusal, text};
use crate::small::{changed, file, read, small};

/// The bytes of a file, with `count` in place of one of its two counts.
fn counted(at: usize, count: u64) -> Vec<u8> {
    let mut bytes = file().bytes();
    bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
    bytes
}

#[track_caller]
fn refused(bytes: Vec<u8>, expected: &str) {
    let said = refusal(parse(bytes));
    assert!(
        said.starts_with("model.gguf") && said.contains(expected),
        "{said}"
    );
}

/// A file with one more metadata entry.
fn with(value: Meta) -> Vec<u8> {
    let mut file = file();
    file.set("a.key", value);
    file.bytes()
}

fn with_tensor(tensor: Tensor) -> Vec<u8> {
    file().tensor("blk.0.ffn_norm.weight", tensor).bytes()
}

#[test]
fn beginnings() {
    refused(
        Vec::new(),
        "the magic number at byte 0 takes 4 bytes, and the file has only 0 more",
    );
    refused(
        b"GGML\x03\0\0\0".to_vec(),
        "it begins with [47, 47, 4d, 4c], not with \"GGUF\"",
    );
    refused(b"GGUF\0\0\0\x03".to_vec(), "it is big-endian");
    refused(
        b"GGUF\x01\0\0\0".to_vec(),
        "its version is 1; supported: 2, 3",
    );
    refused(
        b"GGUF\x04\0\0\0".to_vec(),
        "its version is 4; supported: 2, 3",
    );
}

#[test]
fn version_2_is_read() {
    let mut bytes = file().bytes();
    bytes[4] = 2;
    assert_eq!(parse(bytes).unwrap().version(), 2);
}

#[test]
fn counts() {
    for count in [1 << 20, 1 << 60, u64::MAX] {
        refused(
            counted(8, count),
            &format!("its header claims {count} tensors, which do not fit"),
        );
        refused(
            counted(16, count),
            &format!("its header claims {count} metadata entries"),
        );
        let list = [4u32.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
        refused(
            with(Meta::Raw(9, list)),
            &format!("its header claims {count} values in a.key, which do not fit"),
        );
    }
}

#[test]
fn metadata() {
    refused(
        with(Meta::Raw(13, Vec::new())),
        "a.key is of type 13, which does not exist",
    );
    refused(
        with(Meta::Raw(7, vec![2])),
        "a.key must be 0 or 1 (a boolean), but is 2",
    );
    refused(with(Meta::Raw(8, text(b"\xff"))), "is not UTF-8");
    refused(
        with(Meta::Raw(8, u64::MAX.to_le_bytes().to_vec())),
        "takes 18446744073709551615 bytes",
    );
    let list = |of: u32| Meta::Raw(9, [of.to_le_bytes().to_vec(), vec![0; 8]].concat());
    refused(
        with(list(9)),
        "a.key is a list of lists, which is not supported",
    );
    refused(
        with(list(13)),
        "a.key is a list of type 13, which does not exist",
    );
    let mut twice = file();
    twice.metadata.push(("a.list".to_owned(), Meta::U32(1)));
    refused(twice.bytes(), "the key a.list is there twice");
    let mut nameless = file();
    nameless.set("", Meta::U32(1));
    refused(nameless.bytes(), "a key has 0 bytes; expected 1 to 65535");
}

#[test]
fn alignments() {
    for alignment in [0, 3, 48, 1 << 21] {
        let mut file = file();
        file.set("general.alignment", Meta::U32(alignment));
        refused(file.bytes(), "expected a power of two up to 1048576");
    }
    let mut typed = file();
    typed.set("general.alignment", Meta::Text("32"));
    refused(typed.bytes(), "expected a power of two");
}

#[test]
fn tensors() {
    let tensor = |kind, dims: &[u64]| {
        with_tensor(Tensor {
            kind,
            dims: dims.to_vec(),
            data: Vec::new(),
        })
    };
    let name = "tensor blk.0.ffn_norm.weight";
    refused(
        tensor(0, &[]),
        &format!("{name} has 0 dimensions; expected 1 to 4"),
    );
    refused(
        tensor(0, &[1; 5]),
        &format!("{name} has 5 dimensions; expected 1 to 4"),
    );
    refused(
        tensor(0, &[8, 0]),
        &format!("{name} has a dimension of size 0"),
    );
    refused(
        tensor(2, &[8]),
        &format!("{name} has rows of 8 values, which are not whole blocks of Q4_0"),
    );
    refused(
        tensor(12, &[128]),
        "which are not whole blocks of Q4_K: a block holds 256 values",
    );
    refused(
        tensor(0, &[1 << 62, 1 << 62]),
        "has more bytes than 64 bits can count",
    );
    refused(
        tensor(0, &[u64::MAX]),
        "has more bytes than 64 bits can count",
    );
    refused(
        tensor(0, &[1 << 40]),
        &format!("its header gives {name} 4398046511104 bytes"),
    );
    refused(
        tensor(17, &[256]),
        "is stored as IQ2_XS; supported: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, \
         IQ4_NL",
    );
    refused(tensor(99, &[256]), "is stored as type 99; supported: F32");
    let twice = file().tensor("blk.0.attn_norm.weight", Tensor::zeros(&[8]));
    refused(
        twice.bytes(),
        "lists the tensor blk.0.attn_norm.weight twice",
    );
    let long = file().tensor(&"n".repeat(65), Tensor::zeros(&[8]));
    refused(
        long.bytes(),
        "the name of a tensor has 65 bytes; expected 1 to 64",
    );
}

#[test]
fn offsets() {
    let file = file();
    // The embedding table takes 128 bytes, the norm 32.
    refused(
        file.bytes_at(&[0, 96]),
        "begins at byte 96 of the data, but token_embd.weight ends at 128",
    );
    refused(file.bytes_at(&[0, 0]), "begins at byte 0 of the data");
    refused(
        file.bytes_at(&[0, 130]),
        "begins at byte 130 of the data, which is not aligned to 32",
    );
    refused(file.bytes_at(&[0, 160]), "the file ends at");
    refused(file.bytes_at(&[0, u64::MAX - 31]), "the file ends at");
    assert!(parse(file.bytes_at(&[0, 128])).is_ok());
}

#[test]
fn a_file_that_is_cut_anywhere_is_an_error() {
    let bytes = small();
    assert!(parse(bytes.clone()).is_ok());
    for len in 0..bytes.len() {
        let said = refusal(parse(bytes[..len].to_vec()));
        assert!(said.starts_with("model.gguf: "), "{said}");
    }
}

#[test]
fn no_byte_makes_it_panic() {
    let mut read_still = 0;
    for (at, bytes) in changed(&small()) {
        let answer = catch_unwind(|| read(bytes));
        read_still += usize::from(answer.unwrap_or_else(|_| panic!("byte {at}")));
    }
    // Changes to some names and values make no difference.
    assert!(read_still > 0);
}
