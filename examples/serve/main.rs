//! The digits as an HTTP service: JSON, streams, tensors of the Open Inference Protocol, OpenAPI, health, metrics, traces, an end
//! in order.
//!
//! ```sh
//! cargo run --release --example serve
//! curl --json "$(head -1 data/digits.csv | cut -d, -f1-64 | sed 's/.*/[&]/')" localhost:8080/v1/digits
//! curl localhost:8080/readyz
//! curl localhost:8080/openapi.json
//! ```

#[path = "../digits/data.rs"]
mod data;
#[path = "../digits/knn.rs"]
mod knn;

use data::{Digit, INK_MAX, PIXELS};
use knn::Classifier;
use ringmill::{Batch, BatchWorker, BoxError, Context, ProcessServlet, Server};
use ringmill_http::{Api, Serve, Tensor};
use std::time::Duration;
use tokio::net::TcpListener;

/// Says which digit an image of 64 pixels shows.
struct Reader {
    classifier: Classifier,
}

impl BatchWorker for Reader {
    type Config = Vec<Digit>;
    type In = Vec<u8>;
    type Out = u8;

    fn new(known: Vec<Digit>, _: &Context) -> Result<Self, BoxError> {
        Ok(Self { classifier: Classifier::new(&known)? })
    }

    /// An image that is none fails alone; the others of its batch are compared together.
    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let (mut images, mut good) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for item in batch {
            match image(item.input()) {
                Ok(pixels) => {
                    images.push(pixels);
                    good.push(item);
                }
                Err(error) => item.fail(error.invalid()),
            }
        }
        let labels = self.classifier.labels(images.iter());
        good.into_iter().zip(labels).for_each(|(item, label)| item.reply(*label));
        Ok(())
    }
}

fn image(pixels: &[u8]) -> Result<[u8; PIXELS], BoxError> {
    let count = pixels.len();
    let image = <[u8; PIXELS]>::try_from(pixels)
        .map_err(|_| BoxError::msg(format!("an image has {PIXELS} pixels, this one {count}")))?;
    match image.iter().find(|pixel| **pixel > INK_MAX) {
        Some(pixel) => Err(BoxError::msg(format!("a pixel is 0 to {INK_MAX}, this one {pixel}"))),
        None => Ok(image),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    ringmill::init!(Reader);
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&address).await;
    let listener = listener.map_err(|error| BoxError::msg(format!("cannot listen on {address}: {error}")))?;

    let servlet = ProcessServlet::<Reader>::new(data::load(None)?).name("digits").cpus(2).batch_size(64);
    let server = Server::builder("serve").name_or_suffix().capacity(1024).max_payload(1024);
    let server = server.start_async(servlet).await?;
    println!("listens at {}, as {}", listener.local_addr()?, server.name());

    let api = Api::new().title("digits").json("digits", server.handle()).max_body(64 << 10);
    let (image, digit) = (Tensor::new("image", [PIXELS as u64]), Tensor::new("digit", []));
    let api = api.tensors("digits", server.handle(), image, digit);
    let api = api.timeout(Duration::from_secs(5)).body_timeout(Duration::from_secs(5));
    Serve::new(api).server(server).grace(Duration::from_secs(10)).on(listener).await?;
    println!("drained");
    Ok(())
}
