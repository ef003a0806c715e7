//! Progress of a long program: a bar on a terminal, else a line every few seconds.

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(200);
const LINE: Duration = Duration::from_secs(10);

/// Shows how many of `all` are done, and a message, until it is over.
pub fn show(what: &str, all: u64, over: &AtomicBool, look: impl Fn() -> (u64, String)) {
    let bar = ProgressBar::new(all);
    let template = format!("{{bar:30}} {{human_pos}}/{{human_len}} {what}, {{msg}}, {{eta}} to go");
    bar.set_style(ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (begun, mut told) = (Instant::now(), Instant::now());
    // Relaxed: a flag of its own.
    while !over.load(Ordering::Relaxed) {
        let (done, message) = look();
        if bar.is_hidden() && told.elapsed() > LINE {
            told = Instant::now();
            let a_second = done as f64 / begun.elapsed().as_secs_f64();
            let to_go = all.saturating_sub(done) as f64 / a_second.max(1e-9);
            // Nothing done yet: no idea, and a day says as much.
            let to_go = HumanDuration(Duration::from_secs_f64(to_go.min(86_400.0)));
            eprintln!("{done}/{all} {what}, {message}, {to_go} to go");
        }
        bar.set_position(done);
        bar.set_message(message);
        std::thread::sleep(LOOK); // how often to look
    }
    bar.finish_and_clear();
}
