//! Texts: `/v1/embeddings` and `/v1/models` in OpenAI's form, and `/v1/classify` for labels.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use poda_formats::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::infer::{decode, timeout};
use super::{Answer, blocking, body, check_media, discard, json, refused};
use crate::app::{App, Infer};
use crate::decode::DecodeError;
use crate::model::Served;
use crate::refusal::Refusal;
use crate::text::{Tokens, softmax};

/// A refusal in OpenAI's form.
pub(super) struct Refused(Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<DecodeError> for Refused {
    fn from(error: DecodeError) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(refusal) = self;
        let kind = match refusal.status() {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let error =
            json!({ "message": refusal.to_string(), "type": kind, "param": null, "code": refusal.kind() });
        refused(&refusal, &json!({ "error": error }))
    }
}

type OpenAnswer = Result<Response, Refused>;

#[derive(Deserialize)]
struct EmbeddingsBody {
    model: Option<String>,
    input: Input,
    #[serde(default)]
    encoding_format: Format,
    dimensions: Option<usize>,
}

/// One text or several, or tokens in their place.
#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    Lists(Vec<Vec<u32>>),
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Float,
    Base64,
}

/// The body, unless no model could take it whatever it says.
async fn texts(app: &App, headers: &HeaderMap, content: Body) -> Result<Bytes, Refusal> {
    let room = app.registry.get_or_only(None).map_or(Ok(()), |only| only.has_room());
    if let Err(refusal) = room {
        discard(content);
        return Err(refusal);
    }
    body(app, headers, content).await
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
struct ListBody<'a> {
    object: &'static str,
    data: Vec<Item>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[allow(clippy::needless_pass_by_value, reason = "what `map_err` takes")]
fn invalid(reason: impl ToString) -> Refusal {
    DecodeError::Json { reason: reason.to_string() }.into()
}

pub(super) async fn models(State(app): State<Arc<App>>) -> Answer {
    let model = |model: &Arc<Served>| json!({ "id": model.name, "object": "model", "created": 0, "owned_by": "poda" });
    let data: Vec<Value> = app.registry.served().iter().map(model).collect();
    json(&json!({ "object": "list", "data": data }))
}

pub(super) async fn embeddings(State(app): State<Arc<App>>, headers: HeaderMap, content: Body) -> OpenAnswer {
    check_media(&headers, &["application/json"])?;
    let content = texts(&app, &headers, content).await?;
    let request: EmbeddingsBody = serde_json::from_slice(&content).map_err(invalid)?;
    let model = app.registry.get_or_only(request.model.as_deref())?;
    let Run { tokens, outputs } = run(&app, &model, request.input, &headers).await?;
    let text = model.text.as_ref().expect("it was used");
    let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); tokens.len()];
    for (places, output) in &outputs {
        let own: Vec<&Tokens> = places.iter().map(|&at| &tokens[at]).collect();
        let found = text.vectors(&own, output).map_err(|message| Refusal::Load { reason: message })?;
        places.iter().zip(found).for_each(|(&at, vector)| vectors[at] = vector);
    }
    let size = vectors.first().map_or(0, Vec::len);
    if let Some(dimensions) = request.dimensions.filter(|&dimensions| dimensions != size) {
        return Err(invalid(format!("dimensions is {dimensions}, the model's vectors have {size}")).into());
    }
    if vectors.iter().flatten().any(|x| !x.is_finite()) {
        return Err(Refusal::NotFinite { name: model.outputs[0].name.clone() }.into());
    }
    let count: usize = tokens.iter().map(|tokens| tokens.ids.len()).sum();
    let embedding = |(index, vector): (usize, Vec<f32>)| Item {
        object: "embedding",
        index,
        embedding: match request.encoding_format {
            Format::Float => Vector::Float(vector),
            Format::Base64 => {
                Vector::Base64(BASE64_STANDARD.encode(bytemuck::cast_slice::<f32, u8>(&vector)))
            }
        },
    };
    let data: Vec<Item> = vectors.into_iter().enumerate().map(embedding).collect();
    let usage = Usage { prompt_tokens: count, total_tokens: count };
    Ok(json(&ListBody { object: "list", data, model: &model.name, usage })?)
}

/// The tokens of each text, and the first output for groups of texts, by their places.
struct Run {
    tokens: Vec<Tokens>,
    outputs: Vec<(Vec<usize>, Tensor)>,
}

/// Texts of about one length go together, and in sizes that plans are made for: none is filled up to the longest of all.
async fn run(app: &Arc<App>, model: &Arc<Served>, input: Input, headers: &HeaderMap) -> Result<Run, Refusal> {
    if model.text.is_none() {
        let reason = "takes no texts: no tokenizer.json lies beside it";
        return Err(Refusal::NotOffered { name: model.name.clone(), reason });
    }
    let deadline = timeout(headers)?;
    let own = Arc::clone(model);
    let tokens = blocking(move || tokenize(&own, input)).await??;
    let (most, limit) = (app.config.max_batch, app.config.max_client_batch);
    if tokens.len() > limit {
        let (found, limit) = (tokens.len() as u64, limit as u64);
        return Err(Refusal::TooLarge { what: "a list of texts", found, limit, flag: "max-client-batch" });
    }
    let text = model.text.as_ref().expect("checked above");
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    let length = |at: usize| text.length(tokens[at].ids.len());
    order.sort_by_key(|&at| length(at));
    let groups: Vec<&[usize]> = order
        .chunk_by(|&a, &b| length(a) == length(b))
        .flat_map(|texts| sizes(texts.len(), most).scan(texts, |rest, size| rest.split_off(..size)))
        .collect();
    let name = model.outputs[0].name.clone();
    let place = model.admit()?;
    let runs: Vec<_> = groups
        .into_iter()
        .map(|places| {
            let own: Vec<&Tokens> = places.iter().map(|&at| &tokens[at]).collect();
            let inputs = text.inputs(&own, length(places[0]));
            let infer = Infer { inputs, outputs: vec![name.clone()], timeout: deadline };
            let place = Some(Arc::clone(&place));
            async move {
                Ok::<_, Refusal>((places.to_vec(), app.infer_at(place, model, infer).await?.remove(0).1))
            }
        })
        .collect();
    // It is theirs alone, and given back when the last of them runs.
    drop(place);
    let outputs = futures_util::future::try_join_all(runs).await?;
    Ok(Run { tokens, outputs })
}

fn tokenize(model: &Served, input: Input) -> Result<Vec<Tokens>, Refusal> {
    let text = model.text.as_ref().expect("checked by the caller");
    let tokens = match input {
        Input::Text(one) => vec![text.tokens(&one).map_err(invalid)?],
        Input::Texts(all) => {
            all.iter().map(|one| text.tokens(one)).collect::<Result<_, _>>().map_err(invalid)?
        }
        Input::Tokens(one) => vec![text.given(one).map_err(invalid)?],
        Input::Lists(all) => {
            all.into_iter().map(|one| text.given(one)).collect::<Result<_, _>>().map_err(invalid)?
        }
    };
    match tokens.iter().find(|tokens| tokens.ids.is_empty()) {
        None if !tokens.is_empty() => Ok(tokens),
        _ => Err(invalid("input holds no text, or one without tokens")),
    }
}

/// Powers of two up to `most` that add up to `count`, the largest first.
fn sizes(mut count: usize, most: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let size = (count > 0).then(|| 1 << count.min(most).ilog2())?;
        count -= size;
        Some(size)
    })
}

#[derive(Deserialize)]
struct ClassifyBody<'a> {
    model: Option<String>,
    input: Option<Input>,
    #[serde(borrow)]
    inputs: Option<&'a RawValue>,
    top_k: Option<usize>,
}

pub(super) async fn classify(State(app): State<Arc<App>>, headers: HeaderMap, content: Body) -> OpenAnswer {
    check_media(&headers, &["application/json"])?;
    let content = texts(&app, &headers, content).await?;
    let request: ClassifyBody<'_> = serde_json::from_slice(&content).map_err(invalid)?;
    let model = app.registry.get_or_only(request.model.as_deref())?;
    let Some(labels) = &model.labels else {
        let reason = "has no classes: no labels.txt lies beside it";
        return Err(Refusal::NotOffered { name: model.name.clone(), reason }.into());
    };
    let outputs = match (request.input, request.inputs) {
        (Some(input), None) => run(&app, &model, input, &headers).await?.outputs,
        (None, Some(inputs)) => {
            let inputs = format!("{{\"inputs\":{}}}", inputs.get());
            let mut infer = decode(inputs.as_bytes(), None, app.config.max_elements)?.infer;
            (infer.outputs, infer.timeout) = (vec![model.outputs[0].name.clone()], timeout(&headers)?);
            let output = app.infer(&model, infer).await?.remove(0).1;
            let rows = output.shape().first().copied().unwrap_or(0);
            vec![((0..rows).collect(), output)]
        }
        _ => return Err(invalid("expected either input (texts) or inputs (tensors)").into()),
    };
    let top = request.top_k.unwrap_or(labels.len()).min(labels.len());
    let mut data: Vec<(usize, Value)> = Vec::new();
    for (places, output) in &outputs {
        for (&place, row) in places.iter().zip(rows(output, labels.len())?) {
            data.push((place, json!({ "index": place, "labels": best(&row, labels, top) })));
        }
    }
    data.sort_by_key(|(place, _)| *place);
    let data: Vec<Value> = data.into_iter().map(|(_, value)| value).collect();
    Ok(json(&json!({ "object": "list", "model": model.name, "data": data }))?)
}

/// Probabilities `[rows, classes]`: of logits, or of what is one already.
fn rows(output: &Tensor, classes: usize) -> Result<Vec<Vec<f32>>, Refusal> {
    let values = output.as_slice::<f32>().ok().filter(|values| {
        let fits = output.shape().last() == Some(&classes)
            && output.shape().first() == Some(&(values.len() / classes.max(1)));
        fits && values.iter().all(|x| x.is_finite())
    });
    let Some(values) = values else {
        let reason = format!(
            "the model's first output is {} {:?}, no finite scores of {classes} classes",
            output.dtype(),
            output.shape()
        );
        return Err(Refusal::Load { reason });
    };
    let probabilities = |row: &[f32]| {
        let sum: f32 = row.iter().sum();
        let already = row.iter().all(|x| (0.0..=1.0).contains(x)) && (sum - 1.0).abs() < 1e-3;
        if already { row.to_vec() } else { softmax(row) }
    };
    Ok(values.chunks(classes.max(1)).map(probabilities).collect())
}

fn best(row: &[f32], labels: &[String], top: usize) -> Vec<Value> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let label = |at: usize| json!({ "label": labels[at], "score": row[at] });
    order.into_iter().take(top).map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_sizes_that_plans_are_made_for() {
        assert_eq!(sizes(7, 16).collect::<Vec<_>>(), [4, 2, 1]);
        assert_eq!(sizes(40, 16).collect::<Vec<_>>(), [16, 16, 8]);
        assert_eq!(sizes(3, 1).collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!(sizes(0, 4).count(), 0);
    }

    #[test]
    fn the_likeliest_label_comes_first() {
        let output = Tensor::from_slice(&[2, 2], &[0.0_f32, 5.0, 0.75, 0.25]);
        let rows = rows(&output, 2).unwrap();
        assert_eq!(rows[1], [0.75, 0.25], "probabilities stay");
        let labels = ["cat".to_owned(), "dog".to_owned()];
        assert_eq!(best(&rows[0], &labels, 1)[0]["label"], "dog");
        assert!(super::rows(&output, 3).is_err());
        assert!(super::rows(&Tensor::from_slice(&[1, 2], &[f32::NAN, 0.0]), 2).is_err());
    }
}
