//! Rows as Parquet: one column per field of a row, with lists as lists.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use selfie::interp::{Row, RowFields, Samples};

/// Rows per row group. This bounds the rows in memory, and keeps the number of groups in a long file small.
const GROUP: usize = 8192;

/// The columns of every row.
const COLUMNS: &str = "
  required binary prompt (STRING);
  required binary interpretation (STRING);
  optional int64 layer;
  required int64 token;
  optional binary token_decoded (STRING);
  required group relevancy_score (LIST) { repeated group list { required float element; } }
  required group new_ids (LIST) { repeated group list { required int64 element; } }
  required group pieces (LIST) { repeated group list { required binary element (STRING); } }
  required int64 inject_layer;
  required binary mode (STRING);
  required float strength;
  required binary model (STRING);
  optional int64 prompt_index;
  required binary key (STRING);
  optional binary reader (STRING);
  optional binary map (STRING);
  required group logprobs (LIST) { repeated group list { required float element; } }
";

/// The columns of rows with several samples.
const SAMPLES: &str = "
  required group samples (LIST) { repeated group list { required binary element (STRING); } }
  required float agreement;
  required float mean_logprob;
";

/// Writes rows to a Parquet file, one row group at a time. The file is complete only after [`finish`](Self::finish).
///
/// Floats are `FLOAT`, ids `INT64`, lists three-level lists. Columns that repeat their values (prompts, names, modes)
/// are dictionary-encoded; pages are compressed with Snappy.
pub struct ParquetRows<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    rows: Vec<Row>,
    fields: RowFields,
}

fn schema(fields: &RowFields) -> String {
    let mut columns = COLUMNS.to_owned();
    if fields.samples {
        columns += SAMPLES;
    }
    for name in fields.controls.iter().map(|control| control.name()) {
        columns.push_str(&format!(
            "  required binary {name}_interpretation (STRING);\n  required float {name}_evidence;\n"
        ));
    }
    format!("message row {{{columns}}}")
}

impl<W: Write + Send> ParquetRows<W> {
    /// Starts a file of rows with these fields. `metadata` goes to the file's footer.
    pub fn new(out: W, fields: &RowFields, metadata: &[(&str, String)]) -> io::Result<Self> {
        let schema = parse_message_type(&schema(fields)).map_err(other)?;
        let metadata = metadata
            .iter()
            .map(|(name, value)| KeyValue::new((*name).to_owned(), value.clone()))
            .collect();
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_key_value_metadata(Some(metadata));
        let properties = Arc::new(properties.build());
        let writer = SerializedFileWriter::new(out, Arc::new(schema), properties);
        Ok(Self {
            writer: writer.map_err(other)?,
            rows: Vec::new(),
            fields: fields.clone(),
        })
    }

    /// Takes a row. It is in the file once its group is full.
    pub fn write(&mut self, row: Row) -> io::Result<()> {
        self.rows.push(row);
        if self.rows.len() == GROUP {
            self.write_group()?;
        }
        Ok(())
    }

    /// Writes the last group and the footer.
    pub fn finish(&mut self) -> io::Result<()> {
        if !self.rows.is_empty() {
            self.write_group()?;
        }
        self.writer.finish().map_err(other)?;
        self.writer.inner_mut().flush()
    }

    fn write_group(&mut self) -> io::Result<()> {
        let rows = std::mem::take(&mut self.rows);
        let group = self.writer.next_row_group().map_err(other)?;
        write_columns(&rows, &self.fields, group).map_err(other)
    }
}

fn write_columns<W: Write + Send>(
    rows: &[Row],
    fields: &RowFields,
    group: SerializedRowGroupWriter<'_, W>,
) -> Result<(), ParquetError> {
    let mut columns = Columns { rows, group };
    columns.plain::<ByteArrayType>(|row| text(&row.prompt))?;
    columns.plain::<ByteArrayType>(|row| text(&row.interpretation))?;
    columns.optional::<Int64Type>(|row| row.layer.map(|layer| layer as i64))?;
    columns.plain::<Int64Type>(|row| row.token as i64)?;
    columns.optional::<ByteArrayType>(|row| row.token_decoded.as_deref().map(text))?;
    columns.list::<FloatType>(|row| row.relevancy_score.clone())?;
    columns.list::<Int64Type>(|row| row.new_ids.iter().map(|&id| i64::from(id)).collect())?;
    columns.list::<ByteArrayType>(|row| row.pieces.iter().map(|piece| text(piece)).collect())?;
    columns.plain::<Int64Type>(|row| row.inject_layer as i64)?;
    columns.plain::<ByteArrayType>(|row| text(row.mode.name()))?;
    columns.plain::<FloatType>(|row| row.strength)?;
    columns.plain::<ByteArrayType>(|row| text(&row.model))?;
    columns.optional::<Int64Type>(|row| row.prompt_index.map(|index| index as i64))?;
    columns.plain::<ByteArrayType>(|row| text(&row.key.to_string()))?;
    columns.optional::<ByteArrayType>(|row| row.reader.as_deref().map(text))?;
    columns.optional::<ByteArrayType>(|row| row.map.as_deref().map(text))?;
    columns.list::<FloatType>(|row| row.logprobs.clone())?;
    if fields.samples {
        // A row without samples belongs to another run; its list is then empty, and its numbers are NaN.
        let number = |row: &Row, of: fn(&Samples) -> f32| row.samples.as_ref().map_or(f32::NAN, of);
        columns.list::<ByteArrayType>(|row| {
            let drawn = row.samples.iter().flat_map(|samples| &samples.samples);
            drawn.map(|sample| text(sample)).collect()
        })?;
        columns.plain::<FloatType>(|row| number(row, |samples| samples.agreement))?;
        columns.plain::<FloatType>(|row| number(row, |samples| samples.mean_logprob))?;
    }
    for at in 0..fields.controls.len() {
        columns.plain::<ByteArrayType>(|row| text(&row.controls[at].interpretation))?;
        columns.plain::<FloatType>(|row| row.controls[at].evidence)?;
    }
    columns.group.close()?;
    Ok(())
}

/// Writes the columns of some rows, in the order of the schema.
struct Columns<'a, 'g, W: Write> {
    rows: &'a [Row],
    group: SerializedRowGroupWriter<'g, W>,
}

impl<W: Write + Send> Columns<'_, '_, W> {
    fn plain<T: DataType>(&mut self, value: impl Fn(&Row) -> T::T) -> Result<(), ParquetError> {
        let values: Vec<T::T> = self.rows.iter().map(value).collect();
        self.next::<T>(&values, None, None)
    }

    fn optional<T: DataType>(
        &mut self,
        value: impl Fn(&Row) -> Option<T::T>,
    ) -> Result<(), ParquetError> {
        let values: Vec<Option<T::T>> = self.rows.iter().map(value).collect();
        let defined: Vec<i16> = values.iter().map(|v| i16::from(v.is_some())).collect();
        let values: Vec<T::T> = values.into_iter().flatten().collect();
        self.next::<T>(&values, Some(&defined), None)
    }

    /// An element continues its list (repetition 1) or begins one (0); an empty list is a level without a value.
    fn list<T: DataType>(&mut self, list: impl Fn(&Row) -> Vec<T::T>) -> Result<(), ParquetError> {
        let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
        for row in self.rows {
            let list = list(row);
            if list.is_empty() {
                defined.push(0);
                repeated.push(0);
            }
            for (i, value) in list.into_iter().enumerate() {
                values.push(value);
                defined.push(1);
                repeated.push(i16::from(i > 0));
            }
        }
        self.next::<T>(&values, Some(&defined), Some(&repeated))
    }

    fn next<T: DataType>(
        &mut self,
        values: &[T::T],
        defined: Option<&[i16]>,
        repeated: Option<&[i16]>,
    ) -> Result<(), ParquetError> {
        let Some(mut column) = self.group.next_column()? else {
            return Err(ParquetError::General(
                "the schema has too few columns".to_owned(),
            ));
        };
        column.typed::<T>().write_batch(values, defined, repeated)?;
        column.close()
    }
}

fn text(text: &str) -> ByteArray {
    ByteArray::from(text)
}

/// The operating system's error if there is one, such as a full disk.
fn other(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(inner) => io::Error::other(inner),
        },
        error => io::Error::other(error),
    }
}
