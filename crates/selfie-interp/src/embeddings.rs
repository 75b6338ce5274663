//! Embeddings: vectors of the residual stream, on a device.

use std::sync::Arc;

use selfie_kernels::Backend;
use selfie_llama::{Llama, PromptSite, capture};

use crate::{InterpError, Result};

/// Vectors of the residual stream on a device, `[len, d_model]`, f32. A handle: clones are cheap.
pub struct Embeddings<B: Backend> {
    rows: Arc<B::Rows>,
    len: usize,
    width: usize,
}

impl<B: Backend> Clone for Embeddings<B> {
    fn clone(&self) -> Self {
        Self {
            rows: self.rows.clone(),
            len: self.len,
            width: self.width,
        }
    }
}

impl<B: Backend> Embeddings<B> {
    /// Runs prompts of token ids through a model, the *subject*, as far as `sites` need it, and captures their states:
    /// `[sites.len(), d_model]`, in the order of `sites`.
    pub fn capture(subject: &Llama<B>, prompts: &[Vec<u32>], sites: &[PromptSite]) -> Result<Self> {
        Ok(Self {
            rows: Arc::new(capture(subject, prompts, sites)?),
            len: sites.len(),
            width: subject.config().d_model,
        })
    }

    /// Copies host values, `[n, width]`, to a device.
    pub fn from_host(backend: &B, values: &[f32], width: usize) -> Result<Self> {
        let len = values.len() / width.max(1);
        let mut rows = backend.rows(len, width)?;
        backend.write_rows(values, &mut rows)?;
        Ok(Self {
            rows: Arc::new(rows),
            len,
            width,
        })
    }

    /// Copies the values to the host, `[len, width]`.
    pub fn to_host(&self, backend: &B) -> Result<Vec<f32>> {
        Ok(backend.read_rows(&self.rows, 0..self.len)?)
    }

    /// The number of vectors.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The width of each vector: that of the residual stream it comes from.
    pub fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn rows(&self) -> &B::Rows {
        &self.rows
    }

    /// Whether both are handles to the same values.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rows, &other.rows)
    }

    /// An error unless a model with a residual stream of `width` can read the vectors.
    pub(crate) fn check_width(&self, width: usize) -> Result<()> {
        if self.width == width {
            return Ok(());
        }
        Err(InterpError::ReaderWidth {
            subject: self.width,
            reader: width,
        })
    }
}
