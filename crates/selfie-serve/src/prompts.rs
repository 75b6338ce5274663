//! Prompts by handle: the most recently tokenized ones.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use lru::LruCache;
use selfie::llama::Bos;
use sha2::{Digest, Sha256};

use crate::problem::Problem;

/// A tokenized prompt.
#[derive(Debug)]
pub(crate) struct Prompt {
    /// Its handle.
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    /// [`Bos::Given`] for prompts from a chat template.
    pub(crate) bos: Bos,
    /// The program options that produce the prompt.
    pub(crate) words: Vec<String>,
}

impl Prompt {
    pub(crate) fn new(text: String, ids: Vec<u32>, bos: Bos, words: Vec<String>) -> Self {
        // Equal prompts have equal handles, in every tab and after a restart.
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

/// The most recently used prompts.
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
            let message = format!(
                "there is no prompt {id:?}, or it was forgotten: send its text to /tokenize again"
            );
            Problem::new(StatusCode::NOT_FOUND, message)
        })
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<String, Arc<Prompt>>> {
        // Each call leaves the cache consistent, even after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
