//! How the vectors of tokens become one: from the files of sentence-transformers, or from `embedding.toml`.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::TextError;

/// What is made of the model's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextConfig {
    pub(crate) pooling: Pooling,
    /// Whether vectors have length 1.
    pub(crate) normalize: bool,
    /// Tokens of a text at most; more are cut off.
    pub(crate) max_length: usize,
}

/// One vector of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pooling {
    /// Their mean.
    Mean,
    /// The first, of the token that stands for all.
    Cls,
    /// The greatest value in each place.
    Max,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Own {
    pooling: Option<Pooling>,
    normalize: Option<bool>,
    max_length: Option<usize>,
}

/// Tokens where nothing says how many.
const USUAL: usize = 512;

impl TextConfig {
    /// From the files in a folder; `tokens` is what the tokenizer cuts texts to.
    pub(crate) fn beside(folder: &Path, tokens: Option<usize>) -> Result<Self, TextError> {
        let own: Own = match read(folder, "embedding.toml")? {
            Some(text) => toml::from_str(&text).map_err(|error| failed(folder, "embedding.toml", &error))?,
            None => Own::default(),
        };
        let pooling = match own.pooling {
            Some(pooling) => pooling,
            None => json(folder, "1_Pooling/config.json")?
                .map_or(Ok(Pooling::Mean), |config| pooling(folder, &config))?,
        };
        let normalizes = |modules: &Value| modules.to_string().contains("Normalize");
        let normalize = match own.normalize {
            Some(normalize) => normalize,
            None => json(folder, "modules.json")?.is_none_or(|modules| normalizes(&modules)),
        };
        let length = |config: Value| config.get("max_seq_length")?.as_u64();
        let sentence =
            json(folder, "sentence_bert_config.json")?.and_then(length).map(|length| length as usize);
        let max_length = own.max_length.or(sentence).or(tokens).unwrap_or(USUAL);
        if max_length == 0 {
            return Err(failed(folder, "embedding.toml", &"max-length is 0"));
        }
        Ok(Self { pooling, normalize, max_length })
    }
}

/// The one way that the file of sentence-transformers switches on.
fn pooling(folder: &Path, config: &Value) -> Result<Pooling, TextError> {
    let on = |mode: &str| config.get(mode).and_then(Value::as_bool).unwrap_or(false);
    let known = [
        ("pooling_mode_cls_token", Pooling::Cls),
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_max_tokens", Pooling::Max),
    ];
    let mut chosen = known.into_iter().filter(|(mode, _)| on(mode));
    match (chosen.next(), chosen.next()) {
        (Some((_, pooling)), None) => Ok(pooling),
        _ => Err(failed(
            folder,
            "1_Pooling/config.json",
            &"expected one of cls, mean and max, say which in embedding.toml",
        )),
    }
}

fn failed(folder: &Path, name: &str, reason: &dyn std::fmt::Display) -> TextError {
    TextError::File { path: folder.join(name), reason: reason.to_string() }
}

fn read(folder: &Path, name: &str) -> Result<Option<String>, TextError> {
    match fs::read_to_string(folder.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(folder, name, &error)),
    }
}

fn json(folder: &Path, name: &str) -> Result<Option<Value>, TextError> {
    let text = read(folder, name)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| failed(folder, name, &error))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_sentence_transformers_are_read_and_our_own_wins() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let config = || TextConfig::beside(folder.path(), Some(128));
        let usual = TextConfig { pooling: Pooling::Mean, normalize: true, max_length: 128 };
        assert_eq!(config().unwrap(), usual);
        write(
            "1_Pooling/config.json",
            r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#,
        );
        write("modules.json", r#"[{"type": "sentence_transformers.models.Pooling"}]"#);
        write("sentence_bert_config.json", r#"{"max_seq_length": 256}"#);
        assert_eq!(
            config().unwrap(),
            TextConfig { pooling: Pooling::Cls, normalize: false, max_length: 256 }
        );
        write("embedding.toml", "pooling = \"max\"\nnormalize = true\nmax-length = 64");
        assert_eq!(config().unwrap(), TextConfig { pooling: Pooling::Max, normalize: true, max_length: 64 });
        write("embedding.toml", "pool = \"max\"");
        assert!(config().unwrap_err().to_string().contains("embedding.toml"));
    }
}
