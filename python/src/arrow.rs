//! Rows as an Arrow table with the columns of the program's Parquet files.

use std::sync::Arc;

use arrow_array::builder::{Float32Builder, Int64Builder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema};
use selfie::interp::{Row, RowFields, Samples};

/// The columns of rows with these fields.
pub(crate) fn schema(fields: &RowFields) -> Schema {
    let text = DataType::Utf8;
    let number = DataType::Int64;
    let real = DataType::Float32;
    let list = |of: &DataType| DataType::List(element(of.clone()));
    let mut columns = vec![
        Field::new("prompt", text.clone(), false),
        Field::new("interpretation", text.clone(), false),
        Field::new("layer", number.clone(), true),
        Field::new("token", number.clone(), false),
        Field::new("token_decoded", text.clone(), true),
        Field::new("relevancy_score", list(&real), false),
        Field::new("new_ids", list(&number), false),
        Field::new("pieces", list(&text), false),
        Field::new("inject_layer", number.clone(), false),
        Field::new("mode", text.clone(), false),
        Field::new("strength", real.clone(), false),
        Field::new("model", text.clone(), false),
        Field::new("prompt_index", number, true),
        Field::new("key", text.clone(), false),
        Field::new("reader", text.clone(), true),
        Field::new("map", text.clone(), true),
        Field::new("logprobs", list(&real), false),
    ];
    if fields.samples {
        columns.push(Field::new("samples", list(&text), false));
        columns.push(Field::new("agreement", real.clone(), false));
        columns.push(Field::new("mean_logprob", real.clone(), false));
    }
    for name in fields.controls.iter().map(|control| control.name()) {
        columns.push(Field::new(
            format!("{name}_interpretation"),
            text.clone(),
            false,
        ));
        columns.push(Field::new(format!("{name}_evidence"), real.clone(), false));
    }
    Schema::new(columns)
}

/// All rows in one batch.
pub(crate) fn batch(rows: &[Arc<Row>], fields: &RowFields) -> Result<RecordBatch, ArrowError> {
    let columns = Columns(rows);
    let mut arrays = vec![
        columns.text(|row| &row.prompt),
        columns.text(|row| &row.interpretation),
        columns.optional_number(|row| row.layer),
        columns.number(|row| row.token),
        columns.optional_text(|row| row.token_decoded.as_deref()),
        columns.reals(|row| &row.relevancy_score),
        columns.ids(|row| &row.new_ids),
        columns.texts(|row| &row.pieces),
        columns.number(|row| row.inject_layer),
        columns.text(|row| row.mode.name()),
        columns.real(|row| row.strength),
        columns.text(|row| &row.model),
        columns.optional_number(|row| row.prompt_index),
        columns.keys(),
        columns.optional_text(|row| row.reader.as_deref()),
        columns.optional_text(|row| row.map.as_deref()),
        columns.reals(|row| &row.logprobs),
    ];
    if fields.samples {
        let number = |row: &Row, of: fn(&Samples) -> f32| row.samples.as_ref().map_or(f32::NAN, of);
        arrays.push(
            columns.texts(|row| row.samples.as_ref().map_or(&[], |samples| &samples.samples)),
        );
        arrays.push(columns.real(|row| number(row, |samples| samples.agreement)));
        arrays.push(columns.real(|row| number(row, |samples| samples.mean_logprob)));
    }
    for at in 0..fields.controls.len() {
        arrays.push(columns.text(|row| &row.controls[at].interpretation));
        arrays.push(columns.real(|row| row.controls[at].evidence));
    }
    RecordBatch::try_new(Arc::new(schema(fields)), arrays)
}

fn element(of: DataType) -> FieldRef {
    Arc::new(Field::new("element", of, false))
}

struct Columns<'a>(&'a [Arc<Row>]);

impl Columns<'_> {
    fn text<'a>(&'a self, value: impl Fn(&'a Row) -> &'a str) -> ArrayRef {
        let values = self.0.iter().map(|row| value(row));
        Arc::new(StringArray::from_iter_values(values))
    }

    fn optional_text<'a>(&'a self, value: impl Fn(&'a Row) -> Option<&'a str>) -> ArrayRef {
        let values = self.0.iter().map(|row| value(row));
        Arc::new(values.collect::<StringArray>())
    }

    fn keys(&self) -> ArrayRef {
        let values = self.0.iter().map(|row| row.key.to_string());
        Arc::new(StringArray::from_iter_values(values))
    }

    fn number(&self, value: impl Fn(&Row) -> usize) -> ArrayRef {
        let values = self.0.iter().map(|row| value(row) as i64);
        Arc::new(Int64Array::from_iter_values(values))
    }

    fn optional_number(&self, value: impl Fn(&Row) -> Option<usize>) -> ArrayRef {
        let values = self.0.iter().map(|row| value(row).map(|n| n as i64));
        Arc::new(values.collect::<Int64Array>())
    }

    fn real(&self, value: impl Fn(&Row) -> f32) -> ArrayRef {
        let values = self.0.iter().map(|row| value(row));
        Arc::new(Float32Array::from_iter_values(values))
    }

    fn reals(&self, list: impl Fn(&Row) -> &[f32]) -> ArrayRef {
        let field = element(DataType::Float32);
        let mut lists = ListBuilder::new(Float32Builder::new()).with_field(field);
        for row in self.0 {
            lists.values().append_slice(list(row));
            lists.append(true);
        }
        Arc::new(lists.finish())
    }

    fn ids(&self, list: impl Fn(&Row) -> &[u32]) -> ArrayRef {
        let field = element(DataType::Int64);
        let mut lists = ListBuilder::new(Int64Builder::new()).with_field(field);
        for row in self.0 {
            for &id in list(row) {
                lists.values().append_value(i64::from(id));
            }
            lists.append(true);
        }
        Arc::new(lists.finish())
    }

    fn texts(&self, list: impl Fn(&Row) -> &[String]) -> ArrayRef {
        let field = element(DataType::Utf8);
        let mut lists = ListBuilder::new(StringBuilder::new()).with_field(field);
        for row in self.0 {
            for text in list(row) {
                lists.values().append_value(text);
            }
            lists.append(true);
        }
        Arc::new(lists.finish())
    }
}
