//! Converts SentencePiece's `tokenizer.model` to a `tokenizer.json`: `LlamaConverter` of transformers 4.57
//! (`convert_slow_tokenizer.py`).

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::class::Class;
use super::settings::{Settings, truthy};

/// Kinds of pieces that become added tokens, by their numbers in sentencepiece_model.proto.
pub(crate) const CONTROL: u64 = 3;
pub(crate) const USER_DEFINED: u64 = 4;
/// Kinds of models.
const UNIGRAM: u64 = 1;
const BPE: u64 = 2;

/// The fields of a `ModelProto` that matter.
pub(crate) struct PieceModel {
    pieces: Vec<Piece>,
    /// The kind of the model.
    kind: u64,
    unk_piece: String,
}

/// A piece, with the number of its kind.
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) score: f32,
    pub(crate) kind: u64,
}

/// The `tokenizer.json` for a LLaMA's model; `None` if the bytes are not such a model. `alone` means that the folder
/// has no `tokenizer.json`, which changes two defaults.
pub(super) fn from_model(bytes: &[u8], settings: &Settings, alone: bool) -> Option<Value> {
    let model = PieceModel::read(bytes)?;
    let is_llama = settings.class == Class::Llama;
    let legacy = settings.legacy || !is_llama;
    let prefix = !is_llama || settings.add_prefix_space.as_ref().map_or(alone, truthy);

    let mut vocab: Vec<(&str, f32)> = model.pieces.iter().map(|p| (&*p.text, p.score)).collect();
    for (id, (text, score)) in vocab.iter_mut().take(3).enumerate() {
        if let Some(token) = settings.added.get(&(id as i64)).filter(|_| alone) {
            *text = &token.content;
        }
        *score = 0.0;
    }
    Some(model.json(&vocab, legacy, prefix))
}

impl PieceModel {
    /// A model that merges pairs.
    pub(crate) fn of_pairs(pieces: Vec<Piece>, unk_piece: String) -> Self {
        PieceModel {
            pieces,
            kind: BPE,
            unk_piece,
        }
    }

    /// The model's `tokenizer.json`, with or without a space before each text, as for a LLaMA.
    pub(crate) fn to_json(&self, prefix: bool) -> Value {
        let pieces = self.pieces.iter();
        let vocab: Vec<(&str, f32)> = pieces.map(|p| (&*p.text, p.score)).collect();
        self.json(&vocab, true, prefix)
    }

    /// The `tokenizer.json`; `vocab` holds the effective names and scores.
    fn json(&self, vocab: &[(&str, f32)], legacy: bool, prefix: bool) -> Value {
        let parts = if self.kind == UNIGRAM {
            json!({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": true})
        } else {
            json!({
                "type": "BPE",
                "dropout": null,
                "unk_token": self.unk_piece,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": true,
                "byte_fallback": true,
                "ignore_merges": false,
                "vocab": vocab.iter().zip(0..).map(|((text, _), id)| (*text, id)).collect::<HashMap<_, u32>>(),
                "merges": self.merges(vocab),
            })
        };
        let added = self.pieces.iter().enumerate();
        let added = added.filter(|(_, piece)| [CONTROL, USER_DEFINED].contains(&piece.kind));
        let added: Vec<Value> = added
        .map(|(id, piece)| {
            json!({
                "id": id, "content": piece.text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": piece.kind == CONTROL,
            })
        })
        .collect();

        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        let normalizers = if prefix {
            vec![prepend, replace]
        } else {
            vec![replace]
        };
        let metaspace = json!({
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": if prefix { "first" } else { "never" },
            "split": false,
        });
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": legacy.then(|| json!({"type": "Sequence", "normalizers": normalizers})),
            "pre_tokenizer": (!legacy).then_some(metaspace),
            "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": parts,
        })
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut model = PieceModel {
            pieces: Vec::new(),
            kind: UNIGRAM,
            unk_piece: "<unk>".to_owned(),
        };
        for field in Message(bytes) {
            match field? {
                (1, Wire::Bytes(piece)) => model.pieces.push(Piece::read(piece)?),
                (2, Wire::Bytes(trainer)) => {
                    for field in Message(trainer) {
                        match field? {
                            (3, Wire::Number(kind)) => model.kind = kind,
                            (45, Wire::Bytes(text)) => {
                                model.unk_piece = String::from_utf8(text.to_owned()).ok()?;
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let is_known = [UNIGRAM, BPE].contains(&model.kind) && !model.pieces.is_empty();
        is_known.then_some(model)
    }

    /// The merges implied by the pieces, the likeliest piece first (`generate_merges`). `vocab` holds the names and
    /// scores that count for merging.
    fn merges<'a>(&self, vocab: &[(&'a str, f32)]) -> Vec<(&'a str, &'a str)> {
        let ids: HashMap<&str, usize> = self.pieces.iter().map(|p| &*p.text).zip(0..).collect();
        let mut merges = Vec::new();
        let mut seen = HashSet::new();
        for &(piece, score) in vocab.iter().filter(|(piece, _)| seen.insert(*piece)) {
            let splits = piece
                .char_indices()
                .skip(1)
                .map(|(at, _)| piece.split_at(at));
            let ranked = splits.filter_map(|(left, right)| {
                Some(((*ids.get(left)?, *ids.get(right)?), (left, right)))
            });
            let mut ranked: Vec<_> = ranked.collect();
            ranked.sort_by_key(|(ids, _)| *ids);
            merges.extend(ranked.into_iter().map(|(_, pair)| (score, pair)));
        }
        merges.sort_by(|(score_a, a), (score_b, b)| {
            let chars = |text: &str| text.chars().count();
            let by_score = score_b.partial_cmp(score_a).unwrap_or(Ordering::Equal);
            by_score
                .then_with(|| chars(b.0).cmp(&chars(a.0)))
                .then_with(|| chars(b.1).cmp(&chars(a.1)))
        });
        merges.into_iter().map(|(_, pair)| pair).collect()
    }
}

impl Piece {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut piece = Piece {
            text: String::new(),
            score: 0.0,
            kind: 1,
        };
        for field in Message(bytes) {
            match field? {
                (1, Wire::Bytes(text)) => piece.text = String::from_utf8(text.to_owned()).ok()?,
                (2, Wire::Float(score)) => piece.score = score,
                (3, Wire::Number(kind)) => piece.kind = kind,
                _ => {}
            }
        }
        Some(piece)
    }
}

/// The fields of a message in the protocol-buffer wire format, with their numbers; `None` if the message breaks off.
struct Message<'a>(&'a [u8]);

enum Wire<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
    Double,
}

impl<'a> Message<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Wire::Number(self.varint()?),
            1 => self.take(8).map(|_| Wire::Double)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(len)?)
            }
            5 => Wire::Float(f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Message<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}
