//! The states of prompts as a Parquet file: a row for each token, with the residual stream at one layer, ready for
//! pandas, polars or DuckDB.
//!
//! `cargo run --release -p selfie-interp --example states LAYER OUT.parquet PROMPT...`
//!
//! The model is the demo checkpoint; `Llama::open` and `Tokenizer::open` open any other.

use std::error::Error;
use std::fs::File;
use std::process::ExitCode;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use selfie_interp::Embeddings;
use selfie_kernels::{Cpu, CpuOptions};
use selfie_llama::{PromptSite, Site};

const SCHEMA: &str = "message states {
    required binary prompt (STRING);
    required int64 token;
    required binary piece (STRING);
    required int64 layer;
    required group state (LIST) { repeated group list { required float element; } }
}";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [layer, out, prompts @ ..] = &args[..] else {
        return Err("give LAYER OUT.parquet PROMPT...".into());
    };
    let layer: usize = layer
        .parse()
        .map_err(|_| format!("LAYER is {layer:?}, which is no number"))?;
    if prompts.is_empty() {
        return Err("give a prompt after LAYER and OUT.parquet".into());
    }
    let (model, tokenizer) = selfie_demo::open(Cpu::new(CpuOptions::default())?)?;
    let (width, n_layers) = (model.config().d_model, model.config().n_layers);
    if layer > n_layers {
        return Err(
            format!("LAYER is {layer}, and the states have the layers 0..={n_layers}").into(),
        );
    }

    // All prompts run together, as far as the layer.
    let ids = prompts
        .iter()
        .map(|prompt| tokenizer.encode(prompt))
        .collect::<Result<Vec<_>, _>>()?;
    let sites = PromptSite::all(&ids, Site::HiddenStates(layer));
    let states = Embeddings::capture(&model, &ids, &sites)?.to_host(model.backend())?;

    let pieces = ids
        .iter()
        .map(|ids| tokenizer.pieces(ids))
        .collect::<Result<Vec<_>, _>>()?;
    let file = File::create(out).map_err(|e| format!("cannot write {out}: {e}"))?;
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default())?;
    let mut group = writer.next_row_group()?;
    let of_each = |value: fn(&PromptSite) -> usize| {
        sites
            .iter()
            .map(value)
            .map(|n| n as i64)
            .collect::<Vec<_>>()
    };
    let text = |text: &String| ByteArray::from(text.as_str());
    let texts: Vec<ByteArray> = sites
        .iter()
        .map(|site| text(&prompts[site.prompt]))
        .collect();
    column::<ByteArrayType>(&mut group, &texts, None)?;
    column::<Int64Type>(&mut group, &of_each(|site| site.token), None)?;
    let texts: Vec<ByteArray> = sites
        .iter()
        .map(|site| text(&pieces[site.prompt][site.token]))
        .collect();
    column::<ByteArrayType>(&mut group, &texts, None)?;
    column::<Int64Type>(&mut group, &vec![layer as i64; sites.len()], None)?;
    column::<FloatType>(&mut group, &states, Some(width))?;
    group.close()?;
    writer.close()?;
    println!("{out}: {} states of {width} values", sites.len());
    Ok(())
}

/// Writes a column; with `list`, so many values are a row's.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    list: Option<usize>,
) -> Result<(), ParquetError> {
    let mut column = group
        .next_column()?
        .ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
    // Parquet's way to say where lists begin: repetition 0. Definition 1 is a value that is there.
    let levels = list.map(|len| {
        let repetition: Vec<i16> = (0..values.len()).map(|i| i16::from(i % len != 0)).collect();
        (vec![1; values.len()], repetition)
    });
    let (definition, repetition) = levels.as_ref().map(|(d, r)| (&d[..], &r[..])).unzip();
    column
        .typed::<T>()
        .write_batch(values, definition, repetition)?;
    column.close()
}
