//! `--values`, and what storing weights in a narrower type loses.

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use poda_formats::{FileFormat, RoundedWeight, ValueType};

use crate::table::{self, print};

/// Takes the name of a [`ValueType`].
pub(crate) fn parser() -> impl TypedValueParser<Value = ValueType> {
    PossibleValuesParser::new(ValueType::ALL.map(ValueType::name))
        .map(|name| ValueType::named(&name).expect("one of the possible values"))
}

/// Prints how far each weight is from what it was; `format` is that of the file they went to.
pub(crate) fn show(rounded: &[RoundedWeight], format: Option<FileFormat>) -> Result<()> {
    if rounded.is_empty() {
        return Ok(());
    }
    let mut rows = table::table(&["rounded weight", "values", "max error", "relative RMS"], 2);
    for RoundedWeight { weight, values, error } in rounded {
        let (max, rms) = (format!("{:.1e}", error.max), format!("{:.1e}", error.relative_rms));
        rows.add_row([weight.clone(), values.to_string(), max, rms]);
    }
    print(format!("\n{rows}"))?;
    if format == Some(FileFormat::Onnx) {
        print("note: an .onnx file holds the rounded values as f32; write .safetensors to save their bytes")?;
    }
    Ok(())
}
