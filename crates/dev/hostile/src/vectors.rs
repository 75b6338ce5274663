//! Files that users make themselves, or get from others: edits, vectors, maps, readers.

use selfie::control::Edit;
use selfie::interp::{Map, ReaderKind, Released, Vector};
use selfie::llama::Lora;

use crate::files::{parts, with_files};

/// An edit file.
pub(crate) fn edit(bytes: &[u8]) -> bool {
    with_files(&[("edit.safetensors", bytes)], |dir| {
        let Ok(edit) = Edit::open(&dir.join("edit.safetensors")) else {
            return false;
        };
        let config = selfie::demo::config().expect("the demo has a shape");
        let _ = edit.check_shape("edit", &config);
        let _ = edit.check("edit", &config, edit.dtype());
        true
    })
}

/// A file of vectors.
pub(crate) fn vectors(bytes: &[u8]) -> bool {
    with_files(&[("vectors.safetensors", bytes)], |dir| {
        let path = dir.join("vectors.safetensors");
        let _ = Vector::read_file(&path, Some("v"), 4);
        match Vector::read_file(&path, None, 4) {
            Ok(vectors) => {
                for (index, vector) in vectors.iter().enumerate() {
                    let _ = vector.check(index, 4);
                }
                !vectors.is_empty()
            }
            Err(_) => false,
        }
    })
}

/// A file of maps between residual streams.
pub(crate) fn map(bytes: &[u8]) -> bool {
    with_files(&[("map.safetensors", bytes)], |dir| {
        let Ok(map) = Map::open(&dir.join("map.safetensors")) else {
            return false;
        };
        let _ = (map.layers(), map.writes_at());
        let width = map.from_width().min(1 << 16);
        let _ = map.subtract(&vec![0.5; width]);
        true
    })
}

/// The small files of a released reader, with `=== NAME` before each.
pub(crate) fn reader(bytes: &[u8]) -> bool {
    const NAMES: [&str; 3] = ["nla_meta.yaml", "ao_config.json", "adapter_config.json"];
    with_files(&parts(bytes, &NAMES), |dir| {
        let _ = Lora::open(dir);
        let kinds = [None, Some(ReaderKind::EasyNla)];
        let opened = kinds.map(|kind| match Released::open(dir, kind) {
            Ok(Some(released)) => {
                let _ = (released.to_string(), released.reads(32), released.writes());
                true
            }
            _ => false,
        });
        opened.contains(&true)
    })
}
