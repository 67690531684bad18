//! Samples as lines of JSON: an object with an array, of numbers nested as deep as it has axes, for each input.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use poda_formats::storage::check_regular;
use poda_formats::{DataType, Graph, Tensor, ValueId};
use serde_json::Value;

/// Why a line is no sample.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum LineError {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("expected an object with an array for each input, such as {{\"x\": [1, 2]}}")]
    Object,
    #[error("{name:?} holds something other than numbers")]
    Number { name: String },
    #[error("{name:?} has rows of different lengths")]
    Ragged { name: String },
}

/// One sample of a line: its arrays, with an axis of one sample before theirs.
type Sample = Result<BTreeMap<String, Tensor>, LineError>;

/// The samples of a file for the inputs of `graph`; empty lines are none.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn read(path: &Path, graph: &Graph) -> io::Result<Vec<Sample>> {
    check_regular(&std::fs::metadata(path)?)?;
    let text = std::fs::read_to_string(path)?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(|line| sample(line, graph)).collect())
}

fn sample(line: &str, graph: &Graph) -> Sample {
    let Value::Object(object) = serde_json::from_str(line)? else { return Err(LineError::Object) };
    let array = |(name, value): (String, Value)| {
        let mut shape = vec![1];
        let mut first = &value;
        while let Value::Array(items) = first {
            shape.push(items.len());
            first = items.first().unwrap_or(&Value::Null);
        }
        let mut numbers = Vec::new();
        flatten(&name, &value, &shape[1..], &mut numbers)?;
        let is_float = |id: &ValueId| {
            let value = graph.value(*id);
            value.name == name && value.dtype.is_some_and(DataType::is_float)
        };
        let float = graph.inputs.iter().any(is_float);
        let whole: Option<Vec<i64>> =
            numbers.iter().map(|number| number.as_i64().filter(|_| !float)).collect();
        let tensor = match whole {
            Some(whole) => Tensor::from_slice(&shape, &whole),
            None => {
                let floats = numbers.iter().map(|number| number.as_f64().unwrap_or(f64::NAN) as f32);
                Tensor::from_slice(&shape, &floats.collect::<Vec<_>>())
            }
        };
        Ok((name, tensor))
    };
    object.into_iter().map(array).collect()
}

fn flatten<'a>(
    name: &str,
    value: &'a Value,
    shape: &[usize],
    numbers: &mut Vec<&'a serde_json::Number>,
) -> Result<(), LineError> {
    match (value, shape) {
        (Value::Array(items), [size, rest @ ..]) if items.len() == *size => {
            items.iter().try_for_each(|item| flatten(name, item, rest, numbers))
        }
        (Value::Number(number), []) => {
            numbers.push(number);
            Ok(())
        }
        (Value::Array(_) | Value::Number(_), _) => Err(LineError::Ragged { name: name.to_owned() }),
        _ => Err(LineError::Number { name: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_samples() {
        let mut graph = Graph::default();
        graph.add_input("f", DataType::F32, vec![]);
        let sample = |line: &str| sample(line, &graph).map_err(|error| error.to_string());
        let read = sample(r#"{"ids": [[1, 2, 3]], "x": [0.5, 2], "f": 3}"#).unwrap();
        assert_eq!(read["ids"], Tensor::from_slice(&[1, 1, 3], &[1_i64, 2, 3]));
        assert_eq!(read["x"], Tensor::from_slice(&[1, 2], &[0.5_f32, 2.0]));
        assert_eq!(read["f"], Tensor::from_slice(&[1], &[3.0_f32]));
        for (line, message) in [
            (r#"{"x": [[1], [2, 3]]}"#, "\"x\" has rows of different lengths"),
            (r#"{"x": ["a"]}"#, "\"x\" holds something other than numbers"),
            ("[1, 2]", "expected an object with an array for each input, such as {\"x\": [1, 2]}"),
        ] {
            assert_eq!(sample(line).unwrap_err(), message);
        }
        assert!(sample("{").unwrap_err().contains("EOF"));
    }
}
