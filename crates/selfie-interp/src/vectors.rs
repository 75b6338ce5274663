//! Reading vectors from a safetensors file.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use selfie_kernels::DType;

use crate::{InterpError, Result};

/// A vector of the residual stream, `[d_model]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// The vector's name in rows; for a file, the name of its tensor.
    pub name: String,
    /// Its index among the vectors with that name.
    pub index: usize,
    /// Its values.
    pub values: Vec<f32>,
}

impl Vector {
    /// Reads every vector of a safetensors file, or those of one tensor. A tensor `[..., d_model]` of f32, f16 or bf16
    /// is a list of vectors; tensors come in the order of their names.
    pub fn read_file(path: &Path, tensor: Option<&str>, d_model: usize) -> Result<Vec<Vector>> {
        let bytes = std::fs::read(path).map_err(|source| InterpError::ReadVectors {
            path: path.to_owned(),
            source,
        })?;
        let file = SafeTensors::deserialize(&bytes).map_err(|source| InterpError::VectorFile {
            path: path.to_owned(),
            source,
        })?;
        let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        if let Some(wanted) = tensor {
            if !names.iter().any(|name| name == wanted) {
                return Err(InterpError::NoTensor {
                    path: path.to_owned(),
                    name: wanted.to_owned(),
                    found: names,
                });
            }
            names.retain(|name| name == wanted);
        }
        let mut vectors = Vec::new();
        for name in names {
            let refuse = |dtype: Dtype, shape: &[usize]| InterpError::VectorTensor {
                path: path.to_owned(),
                name: name.clone(),
                dtype: format!("{dtype:?}"),
                shape: shape.to_vec(),
                width: d_model,
            };
            let view = file
                .tensor(&name)
                .map_err(|source| InterpError::VectorFile {
                    path: path.to_owned(),
                    source,
                })?;
            let values = values(&view)
                .filter(|_| view.shape().last() == Some(&d_model))
                .ok_or_else(|| refuse(view.dtype(), view.shape()))?;
            for (index, values) in values.chunks_exact(d_model).enumerate() {
                vectors.push(Vector {
                    name: name.clone(),
                    index,
                    values: values.to_vec(),
                });
            }
        }
        Ok(vectors)
    }

    /// An error unless the vector has `width` values, all of them finite. Messages call the vector `index`.
    pub fn check(&self, index: usize, width: usize) -> Result<()> {
        if self.values.len() != width {
            return Err(InterpError::VectorWidth {
                index,
                found: self.values.len(),
                width,
            });
        }
        match self.values.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(at) => Err(InterpError::VectorNotFinite {
                index,
                name: self.name.clone(),
                at,
                value: self.values[at],
            }),
        }
    }
}

/// The values of a tensor in f32, exactly; `None` if it is not f32, f16 or bf16.
pub(crate) fn values(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        _ => return None,
    };
    Some(dtype.to_f32(view.data()))
}
