//! Reads rows from Parquet files.

use std::fs::File;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, List, Row as Record};
use selfie::interp::{Control, Controlled, Row, Samples};

use crate::error::read_error;
use crate::manifest::{PART, PartInfo};
use crate::{Result, SweepError};

/// The rows of a Parquet file that [`ParquetRows`](crate::ParquetRows) wrote, in order.
pub fn read_rows(path: &Path) -> Result<impl Iterator<Item = Result<Row>> + use<>> {
    let reader = open(path)?;
    let records = reader.into_iter();
    let damaged = damaged_by(path);
    Ok(records.map(move |record| {
        let record = record.map_err(|error| damaged(error.to_string()))?;
        row(&record).ok_or_else(|| damaged("a row lacks some of the columns of rows".to_owned()))
    }))
}

/// The description of a part, from its metadata.
pub(crate) fn read_info(path: &Path) -> Result<PartInfo> {
    let reader = open(path)?;
    let metadata = reader.metadata().file_metadata().key_value_metadata();
    let metadata = metadata.map_or(&[][..], |values| values);
    let part = metadata.iter().find(|entry| entry.key == PART);
    let part = part.and_then(|entry| serde_json::from_str(entry.value.as_deref()?).ok());
    let part: PartInfo =
        part.ok_or_else(|| damaged_by(path)(format!("its metadata has no {PART}")))?;
    let (rows, found) = (
        part.len() - part.failed.len(),
        reader.metadata().file_metadata().num_rows(),
    );
    if found != rows as i64 {
        return Err(damaged_by(path)(format!(
            "it has {found} rows, but its metadata says {rows}"
        )));
    }
    Ok(part)
}

fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = File::open(path).map_err(read_error(path))?;
    SerializedFileReader::new(file).map_err(|error| damaged_by(path)(error.to_string()))
}

fn damaged_by(path: &Path) -> impl Fn(String) -> SweepError + use<> {
    let path = path.to_owned();
    move |reason| SweepError::Damaged {
        path: path.clone(),
        reason,
    }
}

/// Converts a record to a row; `None` if it is not one.
fn row(record: &Record) -> Option<Row> {
    let field = |name: &str| {
        let mut columns = record.get_column_iter();
        columns
            .find(|(column, _)| *column == name)
            .map(|(_, field)| field)
    };
    let text = |name: &str| match field(name)? {
        Field::Str(text) => Some(text.clone()),
        _ => None,
    };
    let number = |name: &str| match field(name)? {
        Field::Long(number) => usize::try_from(*number).ok(),
        _ => None,
    };
    let float = |name: &str| match field(name)? {
        Field::Float(float) => Some(*float),
        _ => None,
    };
    let is_null = |name: &str| matches!(field(name), Some(Field::Null));
    let list = |name: &str| match field(name)? {
        Field::ListInternal(list) => Some(list),
        _ => None,
    };
    let floats = |list: &List| -> Option<Vec<f32>> {
        let one = |field: &Field| match field {
            Field::Float(float) => Some(*float),
            _ => None,
        };
        list.elements().iter().map(one).collect()
    };
    let optional = |name: &str| -> Option<Option<String>> {
        if is_null(name) {
            Some(None)
        } else {
            text(name).map(Some)
        }
    };
    let optional_number = |name: &str| -> Option<Option<usize>> {
        if is_null(name) {
            Some(None)
        } else {
            number(name).map(Some)
        }
    };
    let id = |field: &Field| match field {
        Field::Long(id) => u32::try_from(*id).ok(),
        _ => None,
    };
    let piece = |field: &Field| match field {
        Field::Str(piece) => Some(piece.clone()),
        _ => None,
    };
    let mut controls = Vec::new();
    for control in Control::ALL {
        let name = control.name();
        if let Some(interpretation) = text(&format!("{name}_interpretation")) {
            controls.push(Controlled {
                control,
                interpretation,
                evidence: float(&format!("{name}_evidence"))?,
            });
        }
    }
    // In the requested order.
    let place = |control: &Controlled| {
        let name = format!("{}_evidence", control.control.name());
        record
            .get_column_iter()
            .position(|(column, _)| *column == name)
    };
    controls.sort_by_key(place);
    let samples = match float("agreement") {
        Some(agreement) => Some(Samples {
            samples: list("samples")?
                .elements()
                .iter()
                .map(piece)
                .collect::<Option<_>>()?,
            agreement,
            mean_logprob: float("mean_logprob")?,
        }),
        None => None,
    };
    Some(Row {
        prompt: text("prompt")?,
        interpretation: text("interpretation")?,
        layer: optional_number("layer")?,
        token: number("token")?,
        token_decoded: optional("token_decoded")?,
        relevancy_score: floats(list("relevancy_score")?)?,
        new_ids: list("new_ids")?
            .elements()
            .iter()
            .map(id)
            .collect::<Option<_>>()?,
        pieces: list("pieces")?
            .elements()
            .iter()
            .map(piece)
            .collect::<Option<_>>()?,
        inject_layer: number("inject_layer")?,
        mode: text("mode")?.parse().ok()?,
        strength: float("strength")?,
        model: text("model")?,
        prompt_index: optional_number("prompt_index")?,
        key: text("key")?.parse().ok()?,
        reader: optional("reader")?,
        map: optional("map")?,
        logprobs: floats(list("logprobs")?)?,
        samples,
        controls,
    })
}
