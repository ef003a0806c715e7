//! The description of the API: OpenAPI 3.1, whose schemas are JSON Schema 2020-12.

use crate::api::{Input, Outcome};
use crate::problem::PROBLEM;
use crate::servlet::{EVENTS, JSON, LINES, TIMEOUT};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// What is said of the requests of one name.
pub(crate) struct Operation {
    summary: &'static str,
    takes: Vec<(&'static str, Media)>,
    gives: Vec<(&'static str, Media)>,
}

/// What is said of a body.
#[derive(Clone, Copy)]
enum Media {
    /// The JSON of a type.
    Json(fn(&mut SchemaGenerator) -> Value),
    /// A text of which OpenAPI 3.1 cannot say more: lines of JSON, events.
    Text,
    Bytes,
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

impl Media {
    fn of_bytes(media_type: &str) -> Self {
        if media_type == "text/plain" { Self::Text } else { Self::Bytes }
    }

    fn schema(self, generator: &mut SchemaGenerator) -> Value {
        match self {
            Self::Json(schema) => schema(generator),
            Self::Text => json!({ "type": "string" }),
            Self::Bytes => json!({}),
        }
    }
}

impl Operation {
    pub(crate) fn json<In: Input, Out: Outcome>() -> Self {
        Self {
            summary: "The outcome of an input, or of each line of a stream of inputs",
            takes: vec![(JSON, Media::Json(schema_of::<In>)), (LINES, Media::Text)],
            gives: vec![(JSON, Media::Json(schema_of::<Out>)), (LINES, Media::Text)],
        }
    }

    pub(crate) fn bytes(takes: &'static str, gives: &'static str) -> Self {
        Self {
            summary: "The outcome of an input",
            takes: vec![(takes, Media::of_bytes(takes))],
            gives: vec![(gives, Media::of_bytes(gives))],
        }
    }

    pub(crate) fn partials<In: Input>() -> Self {
        Self {
            summary: "The partials of an input as they are made, then its outcome",
            takes: vec![(JSON, Media::Json(schema_of::<In>))],
            gives: vec![(LINES, Media::Text), (EVENTS, Media::Text)],
        }
    }

    fn to_json(&self, generator: &mut SchemaGenerator) -> Value {
        let mut content = |media: &[(&'static str, Media)]| -> Value {
            let of = |(name, media): &(&'static str, Media)| {
                ((*name).to_owned(), json!({ "schema": media.schema(generator) }))
            };
            media.iter().map(of).collect::<Map<_, _>>().into()
        };
        let (takes, gives) = (content(&self.takes), content(&self.gives));
        let problem = json!({ PROBLEM: { "schema": { "$ref": "#/components/schemas/Problem" } } });
        let error = |(status, when): (&str, &str)| {
            (status.to_owned(), json!({ "description": when, "content": problem }))
        };
        let mut responses: Map<String, Value> = ERRORS.into_iter().map(error).collect();
        responses.insert("200".into(), json!({ "description": "the outcome", "content": gives }));
        json!({ "post": {
            "summary": self.summary,
            "parameters": [{
                "name": TIMEOUT,
                "in": "header",
                "description": "how long the client waits, in milliseconds",
                "schema": { "type": "integer", "minimum": 0, "maximum": 9_999_999_999_u64 },
            }],
            "requestBody": { "required": true, "content": takes },
            "responses": responses,
        } })
    }
}

/// Each status of an error, and when it comes.
const ERRORS: [(&str, &str); 8] = [
    ("400", "the body or a header is malformed, or the worker says that the input is wrong"),
    ("408", "the body did not come in time"),
    ("413", "the body or the input is too large"),
    ("415", "another Content-Type, or a Content-Encoding"),
    ("429", "the server is full; Retry-After says when to come again"),
    ("500", "the worker or the service failed"),
    ("503", "a servlet is down, or the service ends"),
    ("504", "no outcome in time"),
];

/// The document, as JSON.
pub(crate) fn document(title: &str, operations: &[(String, Operation)]) -> String {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
        .into_generator();
    let path = |(path, operation): &(String, Operation)| (path.clone(), operation.to_json(&mut generator));
    let paths: Map<String, Value> = operations.iter().map(path).collect();
    let mut schemas = generator.take_definitions(true);
    schemas.insert(
        "Problem".into(),
        json!({
            "type": "object",
            "properties": {
                "status": { "type": "integer" },
                "title": { "type": "string" },
                "detail": { "type": "string" },
                "kind": { "type": "string" },
            },
            "required": ["status", "title", "detail", "kind"],
        }),
    );
    json!({
        "openapi": "3.1.0",
        "info": { "title": title, "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": schemas },
    })
    .to_string()
}
