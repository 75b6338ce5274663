//! Resumable sweeps of interpretations over many prompts.
//!
//! A [`Plan`] lists the rows of a sweep: the cells that a [`TokenSelector`](selfie::TokenSelector) selects in each
//! prompt, and which of them belong to a [`Shard`]. A [`SweepFolder`] holds the finished rows. [`sweep`] computes the
//! others, and [`Merge`] reads finished folders as one.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let out = tempfile::tempdir()?;
//! # let dir = out.path();
//! use selfie::{OpenOptions, Opened, Source};
//! use selfie_sweep::{Merge, Plan, Settings, Shard, SweepFolder, sweep};
//!
//! let opened = Opened::new(Source::Demo, OpenOptions::default())?;
//! let options = opened.interpret_options()?;
//! let prompts = ["Rome is the capital of", "Paris is the capital of"].map(str::to_owned);
//! let (layers, tokens) = ([2, 3], "last,word:capital".parse()?);
//! let plan = Plan::new(&opened, prompts.to_vec(), &layers, &tokens, &options, Shard::ALL)?;
//! let settings = Settings::new(&opened, None, &plan, &options)?;
//!
//! let mut folder = SweepFolder::open(dir, plan, settings)?;
//! let model = opened.load(&mut ())?;
//! let swept = sweep(&model, None, &options, &mut folder, &mut ())?;
//! assert_eq!(swept.done, 8);
//! drop(folder);
//! let rows: Vec<_> = Merge::open(&[dir])?.rows().collect::<Result<_, _>>()?;
//! assert_eq!(rows[7].token_decoded.as_deref(), Some("of"));
//! # Ok(())
//! # }
//! ```
//!
//! # Files
//!
//! Each row is appended to the journal of the open part (`part-00003.open.jsonl`) as soon as it is finished, so a
//! killed process only loses the cells in flight. When a part has [`PART_ROWS`] rows, or is old enough, it becomes a
//! Parquet file, which appears by a rename; then its journal is removed. Only these files decide what is finished.
//! `manifest.json` repeats it for people and other programs, together with the settings that must not change. Files are
//! synchronised before they are renamed, the journal every few seconds.
#![forbid(unsafe_code)]

mod error;
mod folder;
mod journal;
mod manifest;
mod merge;
mod parquet;
mod plan;
mod prompts;
mod read;
mod run;
mod settings;

pub use error::{Result, SweepError};
pub use folder::{PART_ROWS, SweepFolder, files_of};
pub use manifest::{Failed, Manifest, PartInfo};
pub use merge::{Merge, MergedRows};
pub use parquet::ParquetRows;
pub use plan::{Gap, Plan, Shard};
pub use prompts::read_prompts;
pub use read::read_rows;
pub use run::{Observer, Swept, sweep};
pub use settings::Settings;
