//! Errors of LoRA adapters.

use std::path::PathBuf;

/// A LoRA adapter cannot be read, or does not fit a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoraError {
    /// An adapter's tensor belongs to no matrix of a language model.
    #[error(
        "the adapter {} has {tensor}: only low-rank pairs of a layer's q, k, v, o, gate, up and down projections \
         and of lm_head are supported",
        dir.display()
    )]
    Tensor {
        /// The adapter's folder.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// An adapter has no pair for a language model.
    #[error("the adapter {} has no low-rank pair of a language model's layers", dir.display())]
    Empty {
        /// The adapter's folder.
        dir: PathBuf,
    },
    /// An adapter is for a module that the model lacks.
    #[error(
        "the adapter {} is for {module}, which the model does not have; it has {n_layers} layers",
        dir.display()
    )]
    Module {
        /// The adapter's folder.
        dir: PathBuf,
        /// The module.
        module: String,
        /// The number of layers in the model.
        n_layers: usize,
    },
    /// An adapter is for a matrix of a different shape.
    #[error(
        "the adapter {} is for a {module} of {} x {}, and the model's is {} x {}: it belongs to another model",
        dir.display(), found[0], found[1], model[0], model[1]
    )]
    Shape {
        /// The adapter's folder.
        dir: PathBuf,
        /// The module.
        module: String,
        /// The shape that the adapter is for: `[out, in]`.
        found: [usize; 2],
        /// The shape in the model.
        model: [usize; 2],
    },
    /// The rank of a pair differs from the adapter's configuration.
    #[error("{}: the rank of {module} is {said}, but its weights have rank {found}", path.display())]
    Rank {
        /// The configuration.
        path: PathBuf,
        /// The module.
        module: String,
        /// The rank in the configuration.
        said: usize,
        /// The rank of the tensors.
        found: usize,
    },
}
