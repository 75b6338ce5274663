//! Map files: headers, and the tensors they need.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::SafeTensors;
use serde_json::Value;

use super::{Entry, Function, Map, Matrix};
use crate::vectors::values;
use crate::{InterpError, Result};

impl Map {
    /// Reads a map from a safetensors file:
    /// - a projection of selfie-adapters, described by its header: `config_json` with a `projection`, or the flat keys
    ///   `projection_type` and `normalize_input`. Its type decides which of these tensors it has: `log_scale` `[1]`,
    ///   `bias` `[d]`, `U` and `V` `[d, r]`, `weight` `[d, d]`;
    /// - affine maps: `weight` `[d_to, d_from]` and `bias` `[d_to]`, for the layers in the header's `source_layer` and
    ///   `target_layer`, if any; or `L.K.weight` and `L.K.bias` for each pair of a source layer L and a target layer K.
    ///
    /// Values are f32, f16 or bf16, and must be finite.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| InterpError::ReadMap {
            path: path.to_owned(),
            source,
        })?;
        let not_safetensors = |source| InterpError::VectorFile {
            path: path.to_owned(),
            source,
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(not_safetensors)?;
        let file = File {
            path,
            tensors: SafeTensors::deserialize(&bytes).map_err(not_safetensors)?,
            header: header.metadata().clone().unwrap_or_default(),
        };
        match file.projection()? {
            Some(projection) => file.adapter(&projection),
            None => file.affine(),
        }
    }
}

/// A projection, as described by a header.
struct Projection {
    kind: String,
    normalize: bool,
    rank: Option<usize>,
}

struct File<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
    header: HashMap<String, String>,
}

impl File<'_> {
    fn error(&self, problem: impl Into<String>) -> InterpError {
        InterpError::MapFile {
            path: self.path.to_owned(),
            problem: problem.into(),
        }
    }

    /// The projection of selfie-adapters that the header describes, if any.
    fn projection(&self) -> Result<Option<Projection>> {
        if let Some(json) = self.header.get("config_json") {
            let config: Value = serde_json::from_str(json)
                .map_err(|source| self.error(format!("its config_json: {source}")))?;
            let field = |name: &str| &config["projection"][name];
            let kind = field("type").as_str();
            let normalize = field("normalize_input").as_bool();
            let (Some(kind), Some(normalize)) = (kind, normalize) else {
                return Err(
                    self.error("its config_json has no projection with a type and normalize_input")
                );
            };
            return Ok(Some(Projection {
                kind: kind.to_owned(),
                normalize,
                rank: field("low_rank_rank").as_u64().map(|rank| rank as usize),
            }));
        }
        let Some(kind) = self.header.get("projection_type") else {
            return Ok(None);
        };
        let normalize = self.header.get("normalize_input");
        Ok(Some(Projection {
            kind: kind.clone(),
            normalize: normalize.is_none_or(|value| value.eq_ignore_ascii_case("true")),
            rank: self.number("low_rank_rank")?,
        }))
    }

    fn number(&self, key: &str) -> Result<Option<usize>> {
        let Some(text) = self.header.get(key).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let number = text.parse();
        number.map(Some).map_err(|_| {
            self.error(format!(
                "its header has {key} = {text:?}; expected a number"
            ))
        })
    }

    fn adapter(&self, projection: &Projection) -> Result<Map> {
        let (scale, low_rank, bias, weight) = match projection.kind.as_str() {
            "scale_only" => (true, false, false, false),
            "scalar_affine" => (true, false, true, false),
            "scalar_affine_plus_low_rank" => (true, true, true, false),
            "low_rank_only" => (false, true, true, false),
            "full_rank" => (false, false, true, true),
            other => {
                return Err(self.error(format!(
                    "its projection is {other:?}; expected scale_only, scalar_affine, scalar_affine_plus_low_rank, \
                     low_rank_only, full_rank"
                )));
            }
        };
        let said = self.number("model_dim")?;
        let width = match (said, bias) {
            (Some(width), _) => width,
            (None, true) => self.matrix("bias", [None, Some(1)])?.rows,
            (None, false) => {
                return Err(self.error(
                    "its header has no model_dim, and scale_only has no tensor to infer it from",
                ));
            }
        };
        let mut function = Function {
            normalize: projection.normalize,
            ..Function::default()
        };
        if scale {
            function.scale = Some(self.matrix("log_scale", [Some(1), Some(1)])?.values[0].exp());
        }
        if bias {
            function.bias = Some(self.matrix("bias", [Some(width), Some(1)])?.values);
        }
        if low_rank {
            let u = self.matrix("U", [Some(width), projection.rank])?;
            let v = self.matrix("V", [Some(width), Some(u.columns)])?;
            function.low_rank = Some([u.transposed(), v]);
        }
        if weight {
            function.weight = Some(self.matrix("weight", [Some(width), Some(width)])?);
        }
        Ok(Map {
            name: self.path.display().to_string(),
            from: width,
            to: width,
            writes_at: Some(0),
            entries: vec![Entry {
                layers: None,
                function: Arc::new(function),
            }],
        })
    }

    fn affine(&self) -> Result<Map> {
        let mut names: Vec<&str> = self.tensors.names();
        names.sort_unstable();
        let mut entries = Vec::new();
        let mut widths: Option<[usize; 2]> = None;
        for name in names {
            let Some(prefix) = name.strip_suffix("weight") else {
                continue;
            };
            let layers = if prefix.is_empty() {
                self.number("source_layer")?
                    .zip(self.number("target_layer")?)
            } else {
                let pair = prefix.trim_end_matches('.').split_once('.');
                let pair = pair.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
                Some(pair.ok_or_else(|| {
                    self.error(format!(
                        "tensor {name:?} is neither weight nor L.K.weight with two layers L and K"
                    ))
                })?)
            };
            let [to, from] = widths.map_or([None; 2], |widths| widths.map(Some));
            let weight = self.matrix(name, [to, from])?;
            widths = Some([weight.rows, weight.columns]);
            let bias = self.matrix(&format!("{prefix}bias"), [Some(weight.rows), Some(1)])?;
            entries.push(Entry {
                layers,
                function: Arc::new(Function {
                    weight: Some(weight),
                    bias: Some(bias.values),
                    ..Function::default()
                }),
            });
        }
        let Some([to, from]) = widths else {
            return Err(self.error(
                "not a map: its header names no projection of selfie-adapters, and it has no tensor weight",
            ));
        };
        let targets = entries.iter().map(|entry| entry.layers.map(|(_, to)| to));
        let first = targets.clone().next().flatten();
        Ok(Map {
            name: self.path.display().to_string(),
            from,
            to,
            writes_at: first.filter(|_| targets.clone().all(|target| target == first)),
            entries,
        })
    }

    /// A tensor `[rows, columns]`, or `[rows]` for one column. `expected` gives the known sizes.
    fn matrix(&self, name: &str, expected: [Option<usize>; 2]) -> Result<Matrix> {
        let Ok(view) = self.tensors.tensor(name) else {
            let mut found = self.tensors.names();
            found.sort_unstable();
            return Err(self.error(format!(
                "it has no tensor {name}; it has: {}",
                found.join(", ")
            )));
        };
        let shape = match view.shape() {
            [rows] => Some([*rows, 1]),
            [rows, columns] => Some([*rows, *columns]),
            _ => None,
        };
        let fits = |shape: &[usize; 2]| {
            let mut pairs = shape.iter().zip(&expected);
            pairs.all(|(found, expected)| expected.is_none_or(|expected| expected == *found))
        };
        let values = values(&view);
        let (Some([rows, columns]), Some(values)) = (shape.filter(fits), values) else {
            let number = |n: &Option<usize>| n.map_or("n".to_owned(), |n| n.to_string());
            let expected: Vec<String> = expected.iter().map(number).collect();
            return Err(self.error(format!(
                "tensor {name} is {:?} {:?}; expected F32, F16 or BF16 [{}]",
                view.dtype(),
                view.shape(),
                expected.join(", ")
            )));
        };
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(self.error(format!(
                "tensor {name}: value {at} is {}; expected finite numbers",
                values[at]
            )));
        }
        Ok(Matrix {
            rows,
            columns,
            values,
        })
    }
}

impl Matrix {
    fn transposed(&self) -> Matrix {
        let (rows, columns) = (self.rows, self.columns);
        let at = |i: usize| self.values[(i % rows) * columns + i / rows];
        Matrix {
            rows: columns,
            columns: rows,
            values: (0..rows * columns).map(at).collect(),
        }
    }
}
