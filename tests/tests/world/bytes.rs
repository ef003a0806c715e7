//! Opaque bytes: aligned wherever they are read, written once, and known by their schemas.

use ringmill::payload::{BYTES_ALIGN, Bytes, Schema};
use ringmill::program::Outside;
use ringmill::{
    Batch, BatchWorker, BoxError, CallError, Context, Ensemble, OnDeath, ProcessServlet, Server, Servlet,
    StartError, ThreadServlet,
};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;
use ringmill_tests::program::path;

ringmill::init!(Mirror);

/// Answers bytes with the same in reverse, and an error if they do not lie as they should.
struct Mirror;

impl BatchWorker for Mirror {
    type Config = ();
    type In = Bytes;
    type Out = Bytes;

    fn new((): (), _: &Context) -> Result<Self, BoxError> {
        Ok(Self)
    }

    fn call(&mut self, batch: Batch<'_, Self>) -> Result<(), BoxError> {
        for item in batch {
            if !is_aligned(item.input()) {
                item.fail(BoxError::msg("it is not aligned"));
                continue;
            }
            let mut reversed = item.input().to_vec();
            reversed.reverse();
            item.reply_ref(&reversed[..]);
        }
        Ok(())
    }
}

/// What is empty lies nowhere.
fn is_aligned(bytes: &[u8]) -> bool {
    bytes.is_empty() || bytes.as_ptr().addr().is_multiple_of(BYTES_ALIGN)
}

fn some(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + length) as u8).collect()
}

/// Around the most that fit in line, and around the sizes of blocks.
const LENGTHS: [usize; 18] =
    [0, 1, 8, 16, 47, 48, 49, 63, 64, 65, 80, 81, 96, 1000, 1008, 1009, (16 << 10) - 16, 100];

#[track_caller]
fn assert_mirrored(input: &[u8], reply: &[u8]) {
    assert!(is_aligned(reply), "{} bytes", input.len());
    assert!(input.iter().rev().eq(reply), "{} bytes", input.len());
}

fn each_way(server: &Server<Bytes, Bytes>) {
    for length in LENGTHS {
        let input = some(length);
        assert_mirrored(&input, &server.call(&Bytes::from(&input[..])).expect("an answer"));
        assert_mirrored(&input, &server.call_ref(&input[..]).expect("an answer"));
        let mut loan = server.loan(length).expect("a buffer");
        assert!(is_aligned(loan.as_mut_slice()), "{length}");
        loan.as_mut_slice().copy_from_slice(&input);
        assert_mirrored(&input, &server.call_loan(loan).expect("an answer"));
    }
    let inputs = || LENGTHS.iter().map(|&length| Bytes::from(some(length)));
    for (input, reply) in inputs().zip(server.stream(inputs())) {
        assert!(input.iter().rev().eq(&*reply.expect("an answer")), "{} bytes", input.len()); // a value of our own
    }
    let largest = (16 << 10) - 16;
    let error = server.call_ref(&some(largest + 1)[..]).expect_err("it does not fit");
    assert!(matches!(error, CallError::PayloadTooLarge { .. }), "{error}");
    assert!(server.loan(largest + 1).is_err_and(|error| matches!(error, CallError::PayloadTooLarge { .. })));
}

#[test]
fn bytes_are_aligned_at_both_ends() {
    guarded(|| {
        for kept in [OnDeath::Fail, OnDeath::Retry(1)] {
            let name = Name::new("bytes");
            let servlet = ProcessServlet::<Mirror>::new(()).batch_size(4).on_death(kept);
            each_way(&name.builder().start(servlet).expect("it starts"));
        }
        let name = Name::new("bytes-in-threads");
        each_way(&name.builder().start(ThreadServlet::<Mirror>::new(()).cpus(2)).expect("it starts"));
    });
}

#[test]
fn bytes_pass_stages_and_ensembles() {
    guarded(|| {
        let name = Name::new("bytes-in-trees");
        let mirror = || ThreadServlet::<Mirror>::new(());
        let stages =
            mirror().then(ProcessServlet::<Mirror>::new(())).then(Ensemble::of((mirror(), mirror())));
        let server = name.builder().start(stages).expect("it starts");
        for length in LENGTHS.into_iter().filter(|&length| length < 8000) {
            let input = some(length);
            let reply = server.call_ref(&input[..]).expect("an answer");
            assert!(
                [&reply.0, &reply.1].iter().all(|member| input.iter().rev().eq(member.iter())),
                "{length}"
            );
        }
    });
}

fn tensor(version: u32) -> Schema {
    Schema::new("test.Tensor", version).hash(7)
}

fn outside(input: Option<Schema>, outcome: Option<Schema>) -> ProcessServlet<Outside<Bytes>> {
    let servlet =
        ProcessServlet::<Outside<Bytes>>::new(()).program(path("outsider")).program_worker("tensors");
    let servlet = input.iter().fold(servlet, ProcessServlet::input_schema);
    outcome.iter().fold(servlet, ProcessServlet::outcome_schema)
}

#[test]
fn a_worker_of_another_schema_is_refused() {
    guarded(|| {
        let name = Name::new("schema");
        {
            let server = name.builder().start(outside(Some(tensor(2)), None)).expect("it starts");
            assert_eq!(server.call_ref(&[1, 2, 3]).expect("an answer")[..], [1, 2, 3]);
            let input = &server.stats().servlets[0];
            assert_eq!(input.name, "tensors");
        }
        let ours = "takes and gives Bytes(test.Tensor v2 #0000000000000007) => ringmill::wire::bytes::Bytes, and the server wants ";
        for (servlet, servers) in [
            (outside(Some(tensor(1)), None), "Bytes(test.Tensor v1 #0000000000000007) => ringmill"),
            (outside(Some(tensor(2).hash(8)), None), "Bytes(test.Tensor v2 #0000000000000008) => ringmill"),
            (outside(None, None), "ringmill::wire::bytes::Bytes => ringmill"),
            (outside(Some(tensor(2)), Some(tensor(2))), "#0000000000000007) => Bytes(test.Tensor v2"),
        ] {
            let error = name.builder().start(servlet).map(drop).expect_err("they differ");
            let StartError::Join { reason, .. } = &error else { panic!("{error:?}") };
            let theirs = reason.split(ours).nth(1).unwrap_or_else(|| panic!("{error}"));
            assert!(theirs.contains(servers), "{error}");
        }
        name.assert_nothing_left();
    });
}

#[test]
fn stages_of_other_schemas_do_not_fit_together() {
    guarded(|| {
        let name = Name::new("schemas");
        let mirror = || ThreadServlet::<Mirror>::new(());
        let gives = |version| mirror().name("gives").outcome_schema(&tensor(version));
        let takes = |version| mirror().name("takes").input_schema(&tensor(version));
        let error = name.builder().start(gives(1).then(takes(2))).map(drop).expect_err("they differ");
        let told = "servlet gives gives bytes of schema test.Tensor v1 #0000000000000007, and servlet takes after it takes \
                    those of schema test.Tensor v2 #0000000000000007";
        assert_eq!(error.to_string(), told);
        let members = Ensemble::of((mirror(), takes(2)));
        assert!(name.builder().start(gives(1).then(members)).is_err(), "a member takes other bytes");
        assert!(name.builder().start(gives(2).then(takes(2))).is_ok());
        assert!(name.builder().start(gives(2).then(mirror())).is_ok(), "it does not say");
        for bad in ["", "two\nlines", &"x".repeat(129)] {
            let servlet = mirror().input_schema(&Schema::new(bad, 1));
            let error = name.builder().start(servlet).map(drop).expect_err("it has no such name");
            assert!(matches!(error, StartError::SchemaName { longest: 128, .. }), "{error:?}");
        }
    });
}
