//! The page: one file that loads nothing. Texts of the record are data: `maud` escapes them.

use super::charts;
use super::samples::{Found, Record};
use crate::units;
use maud::{DOCTYPE, PreEscaped, html};
use ringmill_plot::svg;
use std::time::{Duration, UNIX_EPOCH};

const STYLE: &str = "\
body { margin: 0 auto; max-width: 832px; padding: 16px; background: #f6f4ef; color: #22262b;
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 22px; margin: 8px 0 0 } h2 { font-size: 17px; margin: 24px 0 8px }
p { margin: 4px 0 } .soft { color: #666b72 }
svg { max-width: 100%; height: auto; display: block; margin: 12px 0 }
table { border-collapse: collapse; margin: 8px 0 } td, th { padding: 3px 14px 3px 0; text-align: left; vertical-align: top }
th { font-weight: 600; border-bottom: 1px solid #b5b2aa } td.number, th.number { text-align: right }";

/// Nothing may be loaded, whatever a text of the record says.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The page of a record.
pub(super) fn page(record: &Record) -> String {
    let head = &record.head;
    let (ended, failed, deaths) =
        (record.sum(|c| c.ended), record.sum(|c| c.failed), record.sum(|c| c.deaths));
    let seconds = record.seconds();
    let mean = if seconds > 0.0 { ended as f64 / seconds } else { 0.0 };
    let highest = record.columns.iter().map(|c| c.per_s(c.ended)).fold(0.0, f64::max);
    let facts = [
        ("requests ended", units::number(ended)),
        ("of those, without an answer", units::number(failed)),
        ("a second, on average", units::rate(mean)),
        ("a second, at the most", units::rate(highest)),
        ("workers that died", units::number(deaths)),
    ];
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (head.name) " from " (date(head.started_unix_s)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (head.name) }
                p.soft {
                    "From " (date(head.started_unix_s)) " for " (units::seconds(seconds)) ": "
                    (units::count(record.samples as usize, "sample")) ", one every "
                    (units::seconds(head.interval_s)) "."
                    @if record.columns.len() < record.samples as usize {
                        " Several samples are drawn as one: of times, depths and requests in progress the greatest."
                    }
                    @if record.last_line_cut { " The last line of the record is cut, and left out." }
                }
                table {
                    @for (what, value) in facts { tr { td { (what) } td.number { (value) } } }
                }
                @if !record.findings.is_empty() {
                    h2 { "What limited it" }
                    table {
                        tr { th { "finding, as it was last" } th.number { "samples" } }
                        @for Found { samples: times, text } in record.findings.values() {
                            tr { td { (text) } td.number { (units::number(*times)) } }
                        }
                    }
                }
                h2 { "Over time" }
                @for picture in charts::pictures(record) { (PreEscaped(svg(&picture))) }
                p.soft { "Times are of a sample where there is much to do. Recorded by shmtool " (head.shmtool) "." }
            }
        }
    };
    markup.into_string()
}

/// An instant in words, of whichever number the record has.
fn date(unix_s: f64) -> String {
    let since = Duration::try_from_secs_f64(unix_s.max(0.0)).ok();
    let at = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    // Beyond the year 9999 the text has no form.
    const LAST_S: f64 = 253_402_300_799.0;
    match at.filter(|_| unix_s < LAST_S) {
        Some(at) => humantime::format_rfc3339_seconds(at).to_string(),
        None => "an unknown time".into(),
    }
}
