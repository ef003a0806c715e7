//! The Open Inference Protocol (KServe V2) over REST, with the extension for binary tensors.
//!
//! A request's input is one tensor whose first dimension counts rows. Each row is a call of its own, so that the server makes
//! batches of the rows of all requests; the outcomes are the rows of the output, in order.
//!
//! With the header `Inference-Header-Content-Length` a body is JSON of that length, and then the bytes of the tensors whose
//! parameter `binary_data_size` says how many: row-major, little-endian. An output is binary if the request asks for it, by
//! `binary_data` of the output or `binary_data_output` of all.

use crate::body::{self, Limits};
use crate::problem::Problem;
use crate::servlet::Call;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response};
use futures_core::Stream;
use ringmill::{CallError, Handle, Payload, StreamOptions};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

/// How long the JSON in front of binary tensors is.
pub(crate) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A payload that is one row of a tensor: a `Vec` of numbers, or a number, for a row of one.
pub trait Row: Payload + Send + Sync + sealed::Sealed {
    /// What the protocol calls the type of its numbers.
    const DATATYPE: &'static str;
    /// Bytes of one number.
    #[doc(hidden)]
    const WIDTH: usize;

    /// A row of these bytes, whose length is that of a row.
    #[doc(hidden)]
    fn of_bytes(bytes: &[u8]) -> Self;

    #[doc(hidden)]
    fn write(&self, bytes: &mut Vec<u8>);

    /// Adds the bytes of a number of JSON; false if it is none of this type.
    #[doc(hidden)]
    fn add(number: &Value, bytes: &mut Vec<u8>) -> bool;

    /// The number of these bytes.
    #[doc(hidden)]
    fn number(bytes: &[u8]) -> Value;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! rows {
    ($($number:ty, $datatype:literal, $read:expr;)*) => {$(
        impl sealed::Sealed for $number {}
        impl sealed::Sealed for Vec<$number> {}

        impl Row for $number {
            const DATATYPE: &'static str = $datatype;
            const WIDTH: usize = size_of::<$number>();

            fn of_bytes(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("the bytes of one number"))
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }

            fn add(number: &Value, bytes: &mut Vec<u8>) -> bool {
                let read: fn(&Value) -> Option<$number> = $read;
                read(number).inspect(|number| number.write(bytes)).is_some()
            }

            fn number(bytes: &[u8]) -> Value {
                json!(Self::of_bytes(bytes)) // what JSON has no number for, such as NaN, is null
            }
        }

        impl Row for Vec<$number> {
            const DATATYPE: &'static str = $datatype;
            const WIDTH: usize = size_of::<$number>();

            fn of_bytes(bytes: &[u8]) -> Self {
                bytes.chunks_exact(Self::WIDTH).map(<$number as Row>::of_bytes).collect()
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                self.iter().for_each(|number| number.write(bytes));
            }

            fn add(number: &Value, bytes: &mut Vec<u8>) -> bool {
                <$number as Row>::add(number, bytes)
            }

            fn number(bytes: &[u8]) -> Value {
                <$number as Row>::number(bytes)
            }
        }
    )*};
}

fn float32(number: &Value) -> Option<f32> {
    let number = number.as_f64()? as f32;
    number.is_finite().then_some(number)
}

rows! {
    u8, "UINT8", |number| number.as_u64()?.try_into().ok();
    u16, "UINT16", |number| number.as_u64()?.try_into().ok();
    u32, "UINT32", |number| number.as_u64()?.try_into().ok();
    u64, "UINT64", Value::as_u64;
    i8, "INT8", |number| number.as_i64()?.try_into().ok();
    i16, "INT16", |number| number.as_i64()?.try_into().ok();
    i32, "INT32", |number| number.as_i64()?.try_into().ok();
    i64, "INT64", Value::as_i64;
    f32, "FP32", float32;
    f64, "FP64", Value::as_f64;
}

/// A tensor of a model: its name, and the shape of a row. Its first dimension, the number of rows, may be any.
///
/// ```
/// use ringmill_http::Tensor;
///
/// let image = Tensor::new("image", [8, 8]); // [-1, 8, 8]
/// let label = Tensor::new("label", []); // [-1]
/// # drop((image, label));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    name: String,
    row: Vec<u64>,
}

impl Tensor {
    /// A tensor of this name, whose rows have this shape: none for a number a row.
    ///
    /// # Panics
    /// If a length is 0.
    #[must_use]
    pub fn new(name: impl Into<String>, row: impl IntoIterator<Item = u64>) -> Self {
        let (name, row) = (name.into(), row.into_iter().collect::<Vec<_>>());
        assert!(!row.contains(&0), "tensor {name}: a row of shape {row:?} has no numbers");
        Self { name, row }
    }

    /// How many numbers a row has.
    fn numbers(&self) -> u64 {
        self.row.iter().fold(1, |product, length| product.saturating_mul(*length))
    }

    fn metadata(&self, datatype: &str) -> Value {
        let shape: Vec<i64> =
            self.row.iter().map(|length| i64::try_from(*length).unwrap_or(i64::MAX)).collect();
        let shape = [&[-1], &shape[..]].concat();
        json!({ "name": self.name, "datatype": datatype, "shape": shape })
    }
}

/// A model: what it takes and gives.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) input: Tensor,
    pub(crate) output: Tensor,
}

impl Model {
    pub(crate) fn metadata<In: Row, Out: Row>(&self) -> Value {
        json!({
            "name": self.name,
            "versions": ["1"],
            "platform": "ringmill",
            "inputs": [self.input.metadata(In::DATATYPE)],
            "outputs": [self.output.metadata(Out::DATATYPE)],
        })
    }
}

/// A request, as far as it is read.
#[derive(Deserialize)]
struct Infer {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<Given>,
    #[serde(default)]
    outputs: Vec<Wanted>,
}

#[derive(Deserialize)]
struct Given {
    name: String,
    shape: Vec<u64>,
    datatype: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(default)]
    data: Option<Value>,
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// Adds the numbers of a list, or of lists within lists.
fn flatten<R: Row>(data: &Value, bytes: &mut Vec<u8>) -> Result<(), Problem> {
    match data {
        Value::Array(items) => items.iter().try_for_each(|item| flatten::<R>(item, bytes)),
        number if R::add(number, bytes) => Ok(()),
        other => Err(Problem::invalid(format!("{other} is no number of type {}", R::DATATYPE))),
    }
}

/// The rows of a request, as bytes, and what it asks of the response.
struct Asked {
    id: Option<String>,
    rows: u64,
    bytes: Bytes,
    binary: bool,
}

fn asked<In: Row>(model: &Model, head: &HeaderMap, body: &Bytes) -> Result<Asked, Problem> {
    let length = match head.get(HEADER_LENGTH) {
        None => body.len(),
        Some(stated) => stated
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|length| *length <= body.len())
            .ok_or_else(|| {
                Problem::invalid(format!(
                    "{HEADER_LENGTH} is no number up to the body's {} bytes",
                    body.len()
                ))
            })?,
    };
    let infer: Infer = serde_json::from_slice(&body[..length])
        .map_err(|error| Problem::invalid(format!("the request is no inference request: {error}")))?;
    let tensor = &model.input;
    let [given] = &infer.inputs[..] else {
        return Err(Problem::invalid(format!(
            "the model takes one input, {}, and got {}",
            tensor.name,
            infer.inputs.len()
        )));
    };
    if given.name != tensor.name {
        return Err(Problem::invalid(format!(
            "the model has no input {:?}: its input is {}",
            given.name, tensor.name
        )));
    }
    if given.datatype != In::DATATYPE {
        let detail = format!("input {} is of type {}, not {:?}", tensor.name, In::DATATYPE, given.datatype);
        return Err(Problem::invalid(detail));
    }
    let rows = match given.shape.split_first() {
        Some((rows, row)) if *rows > 0 && row == tensor.row => *rows,
        _ => {
            let detail = format!(
                "input {} has the shape [rows, {:?}] with at least one row, not {:?}",
                tensor.name, tensor.row, given.shape
            );
            return Err(Problem::invalid(detail));
        }
    };
    let wanted = rows.saturating_mul(tensor.numbers()).saturating_mul(In::WIDTH as u64);
    let binary_size = given.parameters.get("binary_data_size");
    let bytes = match (binary_size, &given.data) {
        (Some(size), None) => {
            let rest = body.slice(length..);
            if size.as_u64() != Some(rest.len() as u64) {
                return Err(Problem::invalid(format!(
                    "binary_data_size is {size}, but {} bytes follow",
                    rest.len()
                )));
            }
            rest
        }
        (None, Some(data)) if length == body.len() => {
            let mut bytes = Vec::new();
            flatten::<In>(data, &mut bytes)?;
            bytes.into()
        }
        _ => {
            return Err(Problem::invalid(format!(
                "input {} has either data or binary_data_size, and the body no more",
                tensor.name
            )));
        }
    };
    if bytes.len() as u64 != wanted {
        let detail = format!("input {} has {} bytes, its shape asks for {wanted}", tensor.name, bytes.len());
        return Err(Problem::invalid(detail));
    }
    let is_set = |parameters: &Map<String, Value>, name: &str| parameters.get(name).and_then(Value::as_bool);
    let mut binary = is_set(&infer.parameters, "binary_data_output").unwrap_or(false);
    for output in &infer.outputs {
        if output.name != model.output.name {
            let detail =
                format!("the model has no output {:?}: its output is {}", output.name, model.output.name);
            return Err(Problem::invalid(detail));
        }
        binary = is_set(&output.parameters, "binary_data").unwrap_or(binary);
    }
    Ok(Asked { id: infer.id, rows, bytes, binary })
}

/// The rows of a tensor as inputs, one after the other.
struct Rows<In> {
    bytes: Bytes,
    row_bytes: usize,
    next: usize,
    rows: std::marker::PhantomData<fn() -> In>,
}

impl<In: Row> Stream for Rows<In> {
    type Item = In;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<In>> {
        let (start, end) = (self.next, self.next + self.row_bytes);
        self.next = end;
        Poll::Ready(self.bytes.get(start..end).map(In::of_bytes))
    }
}

/// A response: the media type, the length of its JSON if bytes follow, and the body.
type Inferred = (Option<usize>, Bytes);

async fn infer<In: Row, Out: Row>(
    call: &Call,
    model: &Model,
    handle: &Handle<In, Out>,
    body: Body,
    limits: Limits,
) -> Result<Inferred, Problem> {
    let (options, timeout) = (call.options()?, call.timeout()?);
    let body = body::read(&call.head.headers, body, limits).await?;
    let asked = asked::<In>(model, &call.head.headers, &body)?;
    let row_bytes = usize::try_from(model.input.numbers()).unwrap_or(usize::MAX).saturating_mul(In::WIDTH);
    let failed = |error: CallError| Problem::of(&call.shared.name, &error);
    let mut bytes = Vec::new();
    if asked.rows == 1 {
        // Alone it takes a permit or is refused, as every other request.
        let reply = handle.call_async_with(In::of_bytes(&asked.bytes), options).await;
        reply.and_then(ringmill::Reply::into_owned).map_err(failed)?.write(&mut bytes);
    } else {
        let rows = Rows::<In> { bytes: asked.bytes, row_bytes, next: 0, rows: std::marker::PhantomData };
        let options = StreamOptions::new().timeout(timeout).window(crate::window(handle.capacity()));
        let mut outcomes = pin!(handle.stream_async_with(rows, options));
        while let Some(outcome) = std::future::poll_fn(|context| outcomes.as_mut().poll_next(context)).await {
            outcome.map_err(failed)?.write(&mut bytes);
        }
    }
    let expected = asked.rows.saturating_mul(model.output.numbers()).saturating_mul(Out::WIDTH as u64);
    if bytes.len() as u64 != expected {
        tracing::error!(
            servlet = call.shared.name,
            expected,
            got = bytes.len(),
            "rows of another length than the model's"
        );
        return Err(Problem::failed());
    }
    let shape = [&[asked.rows], &model.output.row[..]].concat();
    let mut output = json!({ "name": model.output.name, "datatype": Out::DATATYPE, "shape": shape });
    if asked.binary {
        output["parameters"] = json!({ "binary_data_size": bytes.len() });
    } else {
        output["data"] = bytes.chunks_exact(Out::WIDTH).map(Out::number).collect();
    }
    let mut response = json!({ "model_name": model.name, "model_version": "1", "outputs": [output] });
    if let Some(id) = asked.id {
        response["id"] = id.into();
    }
    let mut text = response.to_string().into_bytes();
    let length = asked.binary.then_some(text.len());
    if asked.binary {
        text.append(&mut bytes);
    }
    Ok((length, text.into()))
}

/// `POST /v2/models/NAME/infer`.
pub(crate) async fn answer<In: Row, Out: Row>(
    call: Call,
    model: std::sync::Arc<Model>,
    handle: Handle<In, Out>,
    body: Body,
) -> Response<Body> {
    let limits = call.shared.limits;
    let inferred = infer(&call, &model, &handle, body, limits).await;
    let length = inferred.as_ref().ok().and_then(|(length, _)| *length);
    let media_type = if length.is_some() { "application/octet-stream" } else { "application/json" };
    let mut response = call.end_with(inferred.map(|(_, bytes)| (media_type, bytes)), error);
    if let Some(length) = length {
        response.headers_mut().insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    response
}

/// An error as clients of the protocol expect it.
pub(crate) fn error(problem: Problem) -> Response<Body> {
    let text = json!({ "error": problem.detail }).to_string();
    let mut response = problem.into_response();
    *response.body_mut() = Body::from(text);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
