//! Prompts by handle: what a client has tokenized, for as long as there is room.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use lru::LruCache;
use selfie::llama::Bos;
use sha2::{Digest, Sha256};

use crate::problem::Problem;

/// A prompt that has been tokenized.
#[derive(Debug)]
pub(crate) struct Prompt {
    /// Its handle.
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    /// [`Bos::Given`] for what a chat template wrote.
    pub(crate) bos: Bos,
    /// The options of the program that give it.
    pub(crate) words: Vec<String>,
}

impl Prompt {
    pub(crate) fn new(text: String, ids: Vec<u32>, bos: Bos, words: Vec<String>) -> Self {
        // The same prompt has the same handle, in every tab and after a restart.
        let mut hash = Sha256::new();
        for word in &words {
            hash.update((word.len() as u64).to_le_bytes());
            hash.update(word);
        }
        let digest = hash.finalize();
        let hex: String = digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Self {
            id: format!("p{hex}"),
            text,
            ids,
            bos,
            words,
        }
    }
}

/// The prompts that were used last.
pub(crate) struct Prompts(Mutex<LruCache<String, Arc<Prompt>>>);

impl Prompts {
    pub(crate) fn new(most: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::new(most)))
    }

    pub(crate) fn put(&self, prompt: Prompt) -> Arc<Prompt> {
        let prompt = Arc::new(prompt);
        self.lock().put(prompt.id.clone(), Arc::clone(&prompt));
        prompt
    }

    pub(crate) fn get(&self, id: &str) -> Result<Arc<Prompt>, Problem> {
        let found = self.lock().get(id).map(Arc::clone);
        found.ok_or_else(|| {
            let message =
                format!("there is no prompt {id:?} (any more): send its text to /tokenize");
            Problem::new(StatusCode::NOT_FOUND, message)
        })
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<String, Arc<Prompt>>> {
        // A cache is whole between two calls, whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
