//! Texts in, vectors or classes out: the tokenizer beside a model, and what is made of the model's output.
//!
//! A `tokenizer.json` in the model's folder says how texts become tokens. How tokens' vectors become one vector is read from the
//! files of sentence-transformers where they lie there (`1_Pooling/config.json`, `modules.json`,
//! `sentence_bert_config.json`), and from `embedding.toml`, which wins.

mod config;
mod pool;

use std::path::{Path, PathBuf};

use poda_formats::storage::{AlignedBytes, Storage};
use poda_formats::{DataType, Dim, Tensor};
use poda_runtime::Port;
use tokenizers::{Tokenizer, TruncationParams};
use tracing::warn;

pub(crate) use config::TextConfig;
pub(crate) use pool::softmax;

use crate::model::plans::Form;

/// What turns texts into a model's inputs.
#[derive(Debug)]
pub(crate) struct Text {
    tokenizer: Tokenizer,
    config: TextConfig,
    inputs: Vec<TokenInput>,
    /// Whether shorter texts may be filled up to a common length.
    masked: bool,
}

#[derive(Debug)]
struct TokenInput {
    name: String,
    dtype: DataType,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ids,
    Mask,
    Types,
}

/// Why a tokenizer does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum TextError {
    #[error("{path}: {reason}", path = path.display())]
    File { path: PathBuf, reason: String },
}

/// The tokens of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    pub(crate) types: Vec<u32>,
}

/// Lengths that texts are filled up to, so that few plans do: powers of two and the middles between them.
const SHORTEST: usize = 16;
/// Lengths that plans are made for before the server is ready.
const WARM: [usize; 4] = [16, 32, 64, 128];

impl Text {
    /// With the `tokenizer.json` in the model's folder; `None` where there is none, or the model does not take tokens.
    pub(crate) fn beside(
        folder: &Path,
        inputs: &[Port],
        outputs: &[Port],
    ) -> Result<Option<Self>, TextError> {
        let path = folder.join("tokenizer.json");
        if !path.is_file() {
            return Ok(None);
        }
        let Some(inputs) = inputs.iter().map(TokenInput::of).collect::<Option<Vec<_>>>() else {
            warn!("{} is not used: the model takes other inputs than tokens", path.display());
            return Ok(None);
        };
        if !inputs.iter().any(|input| input.kind == Kind::Ids) || outputs.is_empty() {
            return Ok(None);
        }
        let failed = |reason: String| TextError::File { path: path.clone(), reason };
        let mut tokenizer = Tokenizer::from_file(&path).map_err(|error| failed(error.to_string()))?;
        let own = tokenizer.get_truncation().map(|truncation| truncation.max_length);
        let config = TextConfig::beside(folder, own)?;
        let truncation = TruncationParams { max_length: config.max_length, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| failed(error.to_string()))?;
        tokenizer.with_padding(None);
        let masked = inputs.iter().any(|input| input.kind == Kind::Mask);
        Ok(Some(Self { tokenizer, config, inputs, masked }))
    }

    /// The tokens of a text, at most as many as the model takes.
    pub(crate) fn tokens(&self, text: &str) -> Result<Tokens, String> {
        let encoding = self.tokenizer.encode_fast(text, true).map_err(|error| error.to_string())?;
        Ok(Tokens { ids: encoding.get_ids().to_vec(), types: encoding.get_type_ids().to_vec() })
    }

    /// Tokens that a client has made itself.
    pub(crate) fn given(&self, ids: Vec<u32>) -> Result<Tokens, String> {
        let (len, most) = (ids.len(), self.config.max_length);
        if len == 0 || len > most {
            return Err(format!("{len} tokens are given, the model takes 1 to {most}"));
        }
        Ok(Tokens { types: vec![0; len], ids })
    }

    /// The length that tokens are filled up to.
    pub(crate) fn length(&self, tokens: usize) -> usize {
        if self.masked { bucket(tokens).min(self.config.max_length).max(tokens) } else { tokens }
    }

    /// The inputs for texts of one length, `[texts, length]`.
    pub(crate) fn inputs(&self, texts: &[&Tokens], length: usize) -> Vec<(String, Tensor)> {
        let input = |input: &TokenInput| {
            let value = |tokens: &Tokens, at: usize| match input.kind {
                Kind::Ids => tokens.ids.get(at).copied().unwrap_or(0),
                Kind::Types => tokens.types.get(at).copied().unwrap_or(0),
                Kind::Mask => u32::from(at < tokens.ids.len()),
            };
            let values = texts.iter().flat_map(|tokens| (0..length).map(move |at| value(tokens, at)));
            (input.name.clone(), integers(input.dtype, &[texts.len(), length], values))
        };
        self.inputs.iter().map(input).collect()
    }

    /// One vector for each text, from the first output: `[texts, length, size]` is pooled, `[texts, size]` taken as it is.
    pub(crate) fn vectors(&self, texts: &[&Tokens], output: &Tensor) -> Result<Vec<Vec<f32>>, String> {
        let lengths: Vec<usize> = texts.iter().map(|tokens| tokens.ids.len()).collect();
        let mut vectors = pool::pool(output, &lengths, self.config.pooling)?;
        if self.config.normalize {
            vectors.iter_mut().for_each(|vector| pool::normalize(vector));
        }
        Ok(vectors)
    }

    /// Forms like `form` for the lengths that texts usually have.
    pub(crate) fn warm_forms(&self, form: &Form) -> Vec<Form> {
        let lengths = WARM.iter().filter(|&&length| self.masked && length <= self.config.max_length);
        let with = |&length: &usize| {
            let mut form = form.clone();
            form.iter_mut().filter_map(|shape| shape.get_mut(1)).for_each(|dim| *dim = length);
            form
        };
        lengths.map(with).collect()
    }
}

impl TokenInput {
    fn of(port: &Port) -> Option<Self> {
        let kind = match port.name.as_str() {
            "input_ids" | "ids" | "input" => Kind::Ids,
            "attention_mask" | "mask" => Kind::Mask,
            "token_type_ids" | "type_ids" => Kind::Types,
            _ => return None,
        };
        let dtype = port.dtype.filter(|dtype| matches!(dtype, DataType::I64 | DataType::I32))?;
        let lengths = |shape: &Vec<Dim>| shape.len() == 2;
        port.shape.as_ref().is_none_or(lengths).then(|| Self { name: port.name.clone(), dtype, kind })
    }
}

/// 16, 24, 32, 48, 64, 96, …: at least so long.
fn bucket(tokens: usize) -> usize {
    let power = tokens.next_power_of_two();
    let middle = power / 4 * 3;
    if tokens <= SHORTEST {
        SHORTEST
    } else if tokens <= middle {
        middle
    } else {
        power
    }
}

/// A tensor of integers that fit 31 bits.
fn integers(dtype: DataType, shape: &[usize], values: impl Iterator<Item = u32>) -> Tensor {
    let mut bytes = AlignedBytes::zeroed(shape.iter().product::<usize>() * dtype.size());
    for (place, value) in bytes.chunks_exact_mut(dtype.size()).zip(values) {
        place.copy_from_slice(&u64::from(value).to_le_bytes()[..dtype.size()]);
    }
    Tensor::new(dtype, shape.to_vec(), Storage::owned(bytes)).expect("sized for it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_come_in_few_sizes() {
        let found: Vec<usize> = [1, 16, 17, 24, 25, 33, 48, 49, 65, 128, 129].map(bucket).to_vec();
        assert_eq!(found, [16, 16, 24, 24, 32, 48, 48, 64, 96, 128, 192]);
        assert!((1..600).all(|tokens| bucket(tokens) >= tokens));
    }

    #[test]
    fn tokens_become_inputs_of_the_type() {
        let tensor = integers(DataType::I64, &[1, 2], [7, 9].into_iter());
        assert_eq!(tensor, Tensor::from_slice(&[1, 2], &[7_i64, 9]));
        assert_eq!(integers(DataType::I32, &[1], [7].into_iter()), Tensor::from_slice(&[1], &[7_i32]));
    }
}
