//! The identity of a checkpoint's weights, as one number.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{Checkpoint, Located, read_error};
use crate::Result;

impl Checkpoint {
    /// The identity of the weights as 64 hexadecimal digits: the SHA-256 of all tensors' names, types, shapes and
    /// SHA-256 sums. It reads every byte, several tensors in parallel. Neither the location of the files nor their
    /// split matters.
    pub fn fingerprint(&self) -> Result<String> {
        let tensors: Vec<(&String, &Located)> = self.tensors.iter().collect();
        let parts = tensors.par_iter().map(|(name, located)| -> Result<String> {
            let Located { entry, shard } = located;
            let mut digest = Sha256::new();
            let bytes = entry.offset..entry.offset + entry.bytes;
            shard
                .with_bytes(bytes, &mut |bytes| digest.update(bytes))
                .map_err(|source| read_error(&shard.path, source))?;
            let (dtype, shape) = (&entry.dtype, &entry.shape);
            Ok(format!(
                "{name:?} {dtype} {shape:?} {:x}\n",
                digest.finalize()
            ))
        });
        let parts: Vec<String> = parts.collect::<Result<_>>()?;
        Ok(format!("{:x}", Sha256::digest(parts.concat())))
    }
}
