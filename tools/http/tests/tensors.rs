//! The Open Inference Protocol as its clients see it: rows, types, shapes, JSON and bytes.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use ringmill::{Batch, BatchWorker, BoxError, Context, PassThrough, Server, ThreadServlet};
use ringmill_http::{Api, Tensor, axum};
use ringmill_tests::{GUARD, fresh_name};
use serde_json::{Value, json};
use std::future::poll_fn;
use std::pin::pin;
use tower::ServiceExt;

/// Adds the numbers of a row.
struct Sum;

impl BatchWorker for Sum {
    type Config = ();
    type In = Vec<f32>;
    type Out = f64;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            let sum: f64 = item.input().iter().map(|number| f64::from(number.to_native())).sum();
            match sum < 0.0 {
                true => item.fail(BoxError::msg("the sum is negative").invalid()),
                false => item.reply(sum),
            }
        }
        Ok(())
    }
}

/// A model `sum` of rows of three numbers, of capacity 4.
fn sum() -> (Server<Vec<f32>, f64>, axum::Router) {
    let builder = Server::anonymous(fresh_name("tensors")).capacity(4).handle_signals(false);
    let server = builder.start(ThreadServlet::<Sum>::new(()).name("sum").batch_size(8)).expect("it starts");
    let (input, output) = (Tensor::new("numbers", [3]), Tensor::new("sum", []));
    let api = Api::new().title("tests").tensors("sum", server.handle(), input, output);
    (server, api.router().expect("a name of a path"))
}

/// A response: its status, the length of its JSON if bytes follow, and its body.
struct Seen {
    status: StatusCode,
    length: Option<usize>,
    body: Vec<u8>,
}

impl Seen {
    fn json(&self) -> Value {
        let text = &self.body[..self.length.unwrap_or(self.body.len())];
        serde_json::from_slice(text)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(text)))
    }

    /// It is an error of this status; its text.
    #[track_caller]
    fn error(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{:?}", String::from_utf8_lossy(&self.body));
        self.json()["error"].as_str().expect("a text").to_owned()
    }
}

fn ask(router: &axum::Router, method: &str, path: &str, length: Option<usize>, body: Vec<u8>) -> Seen {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(length) = length {
        request = request.header("Inference-Header-Content-Length", length);
    }
    let request = request.body(Body::from(body)).expect("a request");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let response = router.clone().oneshot(request).await.expect("infallible");
        let stated = response.headers().get("inference-header-content-length");
        let length = stated.map(|length| length.to_str().expect("text").parse().expect("a number"));
        let (status, mut body) = (response.status(), Vec::new());
        let mut data = pin!(response.into_body().into_data_stream());
        while let Some(bytes) =
            poll_fn(|context| futures_util::Stream::poll_next(data.as_mut(), context)).await
        {
            body.extend_from_slice(&bytes.expect("a whole body"));
        }
        Seen { status, length, body }
    })
}

fn infer(router: &axum::Router, request: &Value) -> Seen {
    ask(router, "POST", "/v2/models/sum/infer", None, request.to_string().into_bytes())
}

/// One input of this shape and these numbers.
fn input(shape: &[u64], data: &Value) -> Value {
    json!({ "inputs": [{ "name": "numbers", "datatype": "FP32", "shape": shape, "data": data }] })
}

#[test]
fn rows_of_json_are_answered_in_order() {
    let (server, router) = sum();
    let mut request = input(&[2, 3], &json!([[1, 2, 3.5], [4, 5, 6]]));
    request["id"] = json!("7a");
    let seen = infer(&router, &request).json();
    let expected = json!({
        "model_name": "sum", "model_version": "1", "id": "7a",
        "outputs": [{ "name": "sum", "datatype": "FP64", "shape": [2], "data": [6.5, 15.0] }],
    });
    assert_eq!(seen, expected);
    // Beyond the capacity: rows wait for permits.
    let flat: Vec<u32> = (0..300).collect();
    let seen = infer(&router, &input(&[100, 3], &json!(flat))).json();
    let sums: Vec<f64> = (0..100).map(|row| f64::from(9 * row + 3)).collect();
    assert_eq!(seen["outputs"][0]["data"], json!(sums));
    assert_eq!(server.stats().servlets[0].batches().items, 102, "each row was an item");
}

#[test]
fn bytes_go_in_and_out_behind_the_json() {
    let (_server, router) = sum();
    let numbers: Vec<u8> =
        [1_f32, 2.0, 3.0, -1.0, 0.5, 9.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    let head = json!({
        "parameters": { "binary_data_output": true },
        "inputs": [{
            "name": "numbers", "datatype": "FP32", "shape": [2, 3],
            "parameters": { "binary_data_size": numbers.len() },
        }],
    });
    let send = |head: &Value, numbers: &[u8]| {
        let text = head.to_string().into_bytes();
        let length = text.len();
        let body = [text, numbers.to_vec()].concat();
        ask(&router, "POST", "/v2/models/sum/versions/1/infer", Some(length), body)
    };
    let seen = send(&head, &numbers);
    let expected: Vec<u8> = [6_f64, 8.5].iter().flat_map(|number| number.to_le_bytes()).collect();
    assert_eq!(seen.body[seen.length.expect("bytes follow")..], expected);
    assert_eq!(seen.json()["outputs"][0]["parameters"]["binary_data_size"], json!(16));
    // An output by name may be asked for in another way than all.
    let mut as_json = head.clone();
    as_json["outputs"] = json!([{ "name": "sum", "parameters": { "binary_data": false } }]);
    assert_eq!(send(&as_json, &numbers).json()["outputs"][0]["data"], json!([6.0, 8.5]));
    let error = send(&head, &numbers[1..]).error(400);
    assert_eq!(error, "binary_data_size is 24, but 23 bytes follow");
    let mut short = head;
    short["inputs"][0]["parameters"]["binary_data_size"] = json!(23);
    assert!(send(&short, &numbers[1..]).error(400).ends_with("has 23 bytes, its shape asks for 24"));
    let beyond = ask(&router, "POST", "/v2/models/sum/infer", Some(99), b"{}".to_vec());
    assert!(beyond.error(400).contains("no number up to the body's 2 bytes"));
}

#[test]
fn requests_that_do_not_fit_the_model_are_told_why() {
    let (server, router) = sum();
    let good = input(&[1, 3], &json!([1, 2, 3]));
    let with = |pointer: &str, value: Value| {
        let mut request = good.clone();
        *request.pointer_mut(pointer).expect("it is there") = value;
        infer(&router, &request).error(400)
    };
    for (pointer, value, told) in [
        ("/inputs", json!([]), "the model takes one input, numbers, and got 0"),
        ("/inputs/0/name", json!("other"), "the model has no input \"other\": its input is numbers"),
        ("/inputs/0/datatype", json!("INT64"), "input numbers is of type FP32, not \"INT64\""),
        (
            "/inputs/0/shape",
            json!([3]),
            "input numbers has the shape [rows, [3]] with at least one row, not [3]",
        ),
        (
            "/inputs/0/shape",
            json!([0, 3]),
            "input numbers has the shape [rows, [3]] with at least one row, not [0, 3]",
        ),
        (
            "/inputs/0/shape",
            json!([u64::MAX, 3]),
            "input numbers has 12 bytes, its shape asks for 18446744073709551615",
        ),
        ("/inputs/0/data", json!([1, 2]), "input numbers has 8 bytes, its shape asks for 12"),
        ("/inputs/0/data", json!([1, "two", 3]), "\"two\" is no number of type FP32"),
        ("/inputs/0/data", json!([1, 1e300, 3]), "1e+300 is no number of type FP32"),
    ] {
        assert_eq!(with(pointer, value), told, "{pointer}");
    }
    let mut other = good.clone();
    other["outputs"] = json!([{ "name": "more" }]);
    assert_eq!(infer(&router, &other).error(400), "the model has no output \"more\": its output is sum");
    let text = ask(&router, "POST", "/v2/models/sum/infer", None, b"{\"inputs\"".to_vec()).error(400);
    assert!(text.starts_with("the request is no inference request: "), "{text}");
    assert_eq!(server.stats().requests.counters.answered, 0, "no worker has seen any of these");
    let negative = input(&[2, 3], &json!([1, 2, 3, -1, -2, -3]));
    assert_eq!(infer(&router, &negative).error(400), "the sum is negative");
    ask(&router, "GET", "/v2/models/sum/infer", None, Vec::new()).error(405);
    assert_eq!(infer(&router, &good).json()["outputs"][0]["data"], json!([6.0]));
    server.drain(GUARD).expect("none is in progress");
    infer(&router, &good).error(503);
}

#[test]
fn models_and_health_are_described() {
    let (server, router) = sum();
    let get = |path: &str| ask(&router, "GET", path, None, Vec::new());
    assert_eq!(get("/v2").json()["extensions"], json!(["binary_tensor_data"]));
    assert_eq!(get("/v2").json()["name"], json!("tests"));
    let model = get("/v2/models/sum").json();
    assert_eq!(model["inputs"], json!([{ "name": "numbers", "datatype": "FP32", "shape": [-1, 3] }]));
    assert_eq!(model["outputs"], json!([{ "name": "sum", "datatype": "FP64", "shape": [-1] }]));
    let ready =
        ["/v2/health/live", "/v2/health/ready", "/v2/models/sum/ready", "/v2/models/sum/versions/1/ready"];
    for path in ready {
        assert_eq!(get(path).status, StatusCode::OK, "{path}");
    }
    assert_eq!(get("/v2/models/none/ready").status, StatusCode::NOT_FOUND);
    server.drain_servlet("sum", GUARD).expect("it is empty");
    for path in &ready[1..] {
        assert_eq!(get(path).status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    assert_eq!(get("/v2/health/live").status, StatusCode::OK, "it lives");
}

#[test]
fn every_type_of_numbers_comes_back_as_it_was() {
    macro_rules! echo {
        ($($number:ty: $datatype:literal = $values:expr;)*) => {$(
            let builder = Server::anonymous(fresh_name("types")).handle_signals(false);
            let server = builder.start(ThreadServlet::<PassThrough<Vec<$number>>>::new(())).expect("it starts");
            let (input, output) = (Tensor::new("in", [1, 2]), Tensor::new("out", [1, 2]));
            let router = Api::new().tensors("m", server.handle(), input, output).router().expect("a name");
            let data = json!($values);
            let tensor = json!({ "name": "in", "datatype": $datatype, "shape": [1, 1, 2], "data": data });
            let body = json!({ "inputs": [tensor] }).to_string().into_bytes();
            let seen = ask(&router, "POST", "/v2/models/m/infer", None, body).json();
            assert_eq!(seen["outputs"][0]["datatype"], json!($datatype));
            assert_eq!(seen["outputs"][0]["data"], data, $datatype);
        )*};
    }
    echo! {
        u8: "UINT8" = [0, u8::MAX];
        u16: "UINT16" = [0, u16::MAX];
        u32: "UINT32" = [0, u32::MAX];
        u64: "UINT64" = [0, u64::MAX];
        i8: "INT8" = [i8::MIN, i8::MAX];
        i16: "INT16" = [i16::MIN, i16::MAX];
        i32: "INT32" = [i32::MIN, i32::MAX];
        i64: "INT64" = [i64::MIN, i64::MAX];
        f32: "FP32" = [-0.5, 1.25];
        f64: "FP64" = [0.1, -1e300];
    }
}
