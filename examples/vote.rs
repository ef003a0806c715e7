//! Shows how several servlets see the same item: an ensemble, and a stage that puts its outcomes together.
//!
//! Three weak classifiers, each in a process of its own, say which digit a handwritten image is; then a
//! stage in a thread lets them vote. The program compares every answer with that of the same classifiers in this
//! process.
//!
//! Run it with `cargo run --release --example vote`.

#[path = "digits/data.rs"]
mod data;

use data::{Digit, Image, PIXELS};
use ringmill::{
    Batch, BatchWorker, BoxError, Context, Ensemble, ProcessServlet, Server, Servlet, ThreadServlet,
};
use rkyv::{Archive, Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A classifier's features: how much ink there is in each of these.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, PartialEq)]
enum View {
    RowsAndColumns,
    Diagonals,
    Pixels,
}

impl View {
    fn of(self, pixels: &[u8; PIXELS]) -> Vec<f32> {
        let mut seen = vec![0.0; PIXELS]; // room for 16 rows and columns, 2 × 15 diagonals, 64 pixels
        for (i, &ink) in pixels.iter().enumerate() {
            let (x, y) = (i % 8, i / 8);
            let places = match self {
                Self::RowsAndColumns => &[x, 8 + y][..],
                Self::Diagonals => &[x + y, 15 + 7 + x - y],
                Self::Pixels => &[i],
            };
            places.iter().for_each(|&place| seen[place] += f32::from(ink));
        }
        seen
    }
}

/// The worker: a classifier that answers with the nearest of its examples.
#[derive(Archive, Serialize, Deserialize, Clone)]
struct Nearest {
    view: View,
    known: Vec<(Vec<f32>, u8)>,
}

impl Nearest {
    fn label(&self, image: &[u8; PIXELS]) -> u8 {
        let seen = self.view.of(image);
        let distance = |known: &[f32]| known.iter().zip(&seen).map(|(k, s)| (k - s).powi(2)).sum::<f32>();
        let distances = self.known.iter().map(|(known, label)| (distance(known), *label));
        distances.min_by(|a, b| a.0.total_cmp(&b.0)).expect("it knows some").1
    }
}

impl BatchWorker for Nearest {
    type Config = Self; // made once, in the server's process, and sent to each worker
    type In = Image;
    type Out = u8;

    fn new(classifier: Self, _: &Context) -> Result<Self, BoxError> {
        Ok(classifier)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        let labels: Vec<u8> = batch.inputs().map(|image| self.label(&image.pixels)).collect();
        batch.reply_all(labels)
    }
}

// From what each member said, in a box, to the same and what they elect.
ringmill::make_worker!(Vote: Vec<Box<u8>> => [u8; 4], |said| elect([*said[0], *said[1], *said[2]]));

/// The label that two of them give; if they all differ, the first one's.
fn elect([a, b, c]: [u8; 3]) -> [u8; 4] {
    [a, b, c, if b == c { b } else { a }]
}

/// One example for each digit: the mean of all.
fn means(known: &[(Vec<f32>, u8)]) -> Vec<(Vec<f32>, u8)> {
    let mean = |label| {
        let of_label = known.iter().filter(|known| known.1 == label).map(|known| &known.0);
        let mean = |i| of_label.clone().map(|seen| seen[i]).sum::<f32>() / of_label.clone().count() as f32;
        ((0..PIXELS).map(mean).collect(), label)
    };
    (0..=9).map(mean).collect()
}

const NAMES: [&str; 3] = ["rows+columns", "diagonals", "means"];
const PASSES: usize = 20;

fn main() -> Result<(), BoxError> {
    ringmill::init!(Nearest);

    let digits = data::load(None)?;
    let unknown: Vec<Digit> = digits.iter().skip(1).step_by(2).copied().collect();
    let classifiers = [View::RowsAndColumns, View::Diagonals, View::Pixels].map(|view| {
        let known: Vec<(Vec<f32>, u8)> =
            digits.iter().step_by(2).map(|digit| (view.of(&digit.image.pixels), digit.label)).collect();
        Nearest { view, known: if view == View::Pixels { means(&known) } else { known } }
    });

    // Members of different types would come as a tuple, `Ensemble::of((a, b, c))`, or boxed.
    let members = classifiers.iter().zip(NAMES).map(|(classifier, name)| {
        let member = ProcessServlet::<Nearest>::new(classifier.clone()).name(name);
        member.batch_size(64).batch_wait_time(Duration::from_micros(200))
    });
    let vote = ThreadServlet::<Vote>::new(()).batch_size(64).batch_wait_time(Duration::ZERO);
    let server = Server::builder("vote").capacity(512).start(Ensemble::each(members).then(vote))?;

    let images = (0..PASSES).flat_map(|_| unknown.iter().map(|digit| digit.image));
    let began = Instant::now();
    let answers = server.stream(images).collect::<Result<Vec<[u8; 4]>, _>>()?;
    let seconds = began.elapsed().as_secs_f64();

    println!("{} digits, of which no classifier knows any\n", unknown.len());
    println!("{:12} {:>8} {:>6}   one # for two wrong", "", "accuracy", "wrong");
    for (i, name) in NAMES.into_iter().chain(["the vote"]).enumerate() {
        let wrong = answers.iter().zip(&unknown).filter(|(answer, digit)| answer[i] != digit.label).count();
        let accuracy = 100.0 * (1.0 - wrong as f64 / unknown.len() as f64);
        println!("{name:12} {accuracy:>6.1} % {wrong:>6}   {}", "#".repeat(wrong.div_ceil(2)));
    }
    println!("\n{:.0} images/s, {PASSES} times all of them", answers.len() as f64 / seconds);

    assert_eq!(answers.len(), PASSES * unknown.len());
    let here = |digit: &Digit| elect(classifiers.each_ref().map(|c| c.label(&digit.image.pixels)));
    let expected: Vec<[u8; 4]> = unknown.iter().map(here).collect();
    assert!(answers.chunks(unknown.len()).all(|pass| pass == expected), "not what they say in this process");
    println!("all {} answers are those of the same classifiers in this process", answers.len());
    Ok(())
}
