//! A worker type is known by its identity, not by its name.
//!
//! Symptom: of two worker types with one name (two versions of a crate, or made by a macro in one function), the second
//! server ran the first one's code. Cause: workers looked their type up by `type_name` and a hash of sizes. Fix: by `TypeId`
//! within one executable; between executables by name and payload layout, and not at all if two listed types share both.

use ringmill::rkyv::Archived;
use ringmill::{
    BoxError, CallError, Context, Ensemble, PassThrough, ProcessServlet, Server, Servlet, StartError, Worker,
};
use ringmill_tests::guard::guarded;
use ringmill_tests::name::Name;

type Numbers = Server<u32, u32>;

/// Starts a server that runs a worker type of one name, for every number, in processes of this executable or of the one named.
macro_rules! adds {
    ($number:literal, $test:literal, $program:expr) => {{
        ringmill::make_worker!(Adds: u32 => u32, |x: &Archived<u32>| x.to_native() + $number);
        ringmill::init!(Adds);
        let name = Name::new($test);
        let servlet = ProcessServlet::<Adds>::new(());
        let program: Option<std::path::PathBuf> = $program;
        let servlet = program.into_iter().fold(servlet, ProcessServlet::program);
        let server: Result<Numbers, StartError> = Server::builder(name.text()).start(servlet);
        (name, server, std::any::type_name::<Adds>())
    }};
}

#[track_caller]
fn answer(server: &Result<Numbers, StartError>, number: u32) -> u32 {
    server.as_ref().expect("it starts").call(&number).expect("an answer").to_native()
}

#[test]
fn types_of_one_name_run_their_own_code() {
    guarded(|| {
        let (_one, one, first) = adds!(1, "one", None);
        let (_ten, ten, second) = adds!(10, "ten", None);
        let (_hundred, hundred, third) = adds!(100, "hundred", None);
        assert_eq!((first, second), (second, third));
        for round in 0..3 {
            assert_eq!(answer(&hundred, round), round + 100);
            assert_eq!(answer(&one, round), round + 1);
            assert_eq!(answer(&ten, round), round + 10);
        }
        let died = |server: &Result<Numbers, StartError>| {
            let server = server.as_ref().expect("it runs");
            ringmill_tests::process::signal(ringmill_tests::stats::pids(server)[0], libc::SIGKILL);
        };
        [&one, &ten, &hundred].into_iter().for_each(died);
        let again = |server: &Result<Numbers, StartError>| loop {
            match server.as_ref().expect("it runs").call(&0) {
                Ok(reply) => return reply.to_native(),
                Err(CallError::WorkerDied(_)) => {}
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!([&one, &ten, &hundred].map(again), [1, 10, 100]);
    });
}

/// A type without a name of its own: those of one function's blocks share one, inside of another type too.
macro_rules! tells {
    ($text:literal) => {{
        struct Inner;
        #[derive(Debug)]
        struct Tells<T>(std::marker::PhantomData<T>);
        impl Worker for Tells<Inner> {
            type Config = ();
            type In = u8;
            type Out = String;
            fn new((): (), _: &Context) -> Result<Self, BoxError> {
                Ok(Self(std::marker::PhantomData))
            }
            fn call(&mut self, _: &u8) -> Result<String, BoxError> {
                Ok($text.into())
            }
        }
        ringmill::init!(Tells<Inner>);
        ProcessServlet::<Tells<Inner>>::new(())
    }};
}

#[test]
fn types_of_one_name_in_one_server_run_their_own_code() {
    guarded(|| {
        let (first, second) = (tells!("left").name("left"), tells!("right").name("right"));
        let name = Name::new("tree");
        let server = Server::builder(name.text()).start(Ensemble::of((first, second))).expect("it starts");
        let reply = server.call(&0).expect("an answer");
        let both = (reply.0.as_str(), reply.1.as_str());
        assert_eq!(both, ("left", "right"));
    });
}

#[test]
fn a_type_that_is_listed_twice_is_one_type() {
    ringmill::make_worker!(Listed: u32 => u32, |x: &Archived<u32>| x.to_native());
    ringmill::init!(Listed, Listed);
    ringmill::init!(Listed);
    guarded(|| {
        for program in [None, std::env::current_exe().ok()] {
            let name = Name::new("listed");
            let servlet = ProcessServlet::<Listed>::new(());
            let servlet = program.into_iter().fold(servlet, ProcessServlet::program);
            let server = Server::builder(name.text()).start(servlet).expect("it starts");
            assert_eq!(server.call(&7).expect("an answer").to_native(), 7);
        }
    });
}

/// Another executable knows a type by its name only, so there two of one name are an error. That executable is ours.
#[test]
fn an_executable_does_not_choose_among_types_of_one_name() {
    guarded(|| {
        let here = || std::env::current_exe().ok();
        let (first_name, first, type_name) = adds!(1, "first", here());
        let (_, second, _) = adds!(2, "second", here());
        for server in [first, second] {
            let error = server.map(drop).expect_err("it cannot know which");
            let text = error.to_string();
            assert!(matches!(error, StartError::Join { .. }), "{error:?}");
            assert!(text.contains(type_name) && text.contains("lists 2 worker types of the name"), "{text}");
        }
        first_name.assert_nothing_left();
    });
}

/// The way out of it.
macro_rules! versioned {
    ($schema:expr) => {{
        struct Versioned;
        impl Worker for Versioned {
            type Config = ();
            type In = u8;
            type Out = u64;
            const SCHEMA: u64 = $schema;
            fn new((): (), _: &Context) -> Result<Self, BoxError> {
                Ok(Self)
            }
            fn call(&mut self, _: &u8) -> Result<u64, BoxError> {
                Ok(Self::SCHEMA)
            }
        }
        ringmill::init!(Versioned);
        ProcessServlet::<Versioned>::new(())
    }};
}

#[test]
fn a_schema_tells_types_of_one_name_apart() {
    guarded(|| {
        const TEXT: u64 = ringmill::worker::schema("x, y");
        assert_schema(versioned!(7), 7);
        assert_schema(versioned!(TEXT), TEXT);
    });
}

fn assert_schema<W: Worker<Config = (), In = u8, Out = u64>>(servlet: ProcessServlet<W>, schema: u64) {
    let name = Name::new("schema");
    let here = std::env::current_exe().expect("this program");
    let server = Server::builder(name.text()).start(servlet.program(here)).expect("it starts");
    assert_eq!(server.call(&0).expect("an answer").to_native(), schema);
}

/// The error names the type that another executable does not list, and the types that it lists.
#[test]
fn an_executable_that_lists_other_types_says_so() {
    guarded(|| {
        let name = Name::new("other");
        let servlet = ProcessServlet::<PassThrough<String>>::new(()).program(env!("CARGO_BIN_EXE_actors"));
        let error =
            Server::builder(name.text()).start(servlet.cpus(2)).map(drop).expect_err("not listed there");
        let text = error.to_string();
        assert!(matches!(error, StartError::Join { .. }), "{error:?}");
        assert!(text.contains("PassThrough<alloc::string::String>") && text.contains("Actor"), "{text}");
        name.assert_nothing_left();
    });
}

/// The former and the next version of one worker type; this program lists one of them.
macro_rules! version {
    ($input:ty $(, $list:ident)?) => {{
        struct Rank;
        impl Worker for Rank {
            type Config = ();
            type In = $input;
            type Out = u8;
            fn new((): (), _: &Context) -> Result<Self, BoxError> {
                Ok(Self)
            }
            fn call(&mut self, _: &Archived<$input>) -> Result<u8, BoxError> {
                Ok(0)
            }
        }
        $(ringmill::$list!(Rank);)?
        let servlet = ProcessServlet::<Rank>::new(()).program(std::env::current_exe().expect("this program"));
        (std::any::type_name::<Rank>(), servlet)
    }};
}

/// The guide says how the error reads.
#[test]
fn an_executable_with_other_payloads_says_so_as_the_guide_has_it() {
    guarded(|| {
        let name = Name::new("payloads");
        let (former_name, former) = version!((u32, String), init);
        let (next_name, next) = version!((u32, String, Option<u32>));
        assert_eq!(former_name, next_name);
        drop(Server::builder(name.text()).start(former).expect("it has the same payloads"));
        let error = Server::builder(name.text()).start(next).map(drop).expect_err("a field more");
        let text = error.to_string().replace(next_name, "app::Rank");
        assert!(matches!(error, StartError::Join { .. }), "{error:?}");
        assert!(include_str!("../../../engine/guide.md").contains(&format!("\n{text}\n")), "{text}");
        name.assert_nothing_left();
    });
}

/// If one of several servlets has the wrong executable, nothing of the others is left.
#[test]
fn nothing_is_left_of_the_others() {
    ringmill::make_worker!(Fine: String => String, |x| x.to_string());
    ringmill::init!(Fine);
    guarded(|| {
        let name = Name::new("others");
        let wrong = ProcessServlet::<PassThrough<String>>::new(()).program(env!("CARGO_BIN_EXE_actors"));
        let tree = ProcessServlet::<Fine>::new(()).then(wrong);
        assert!(Server::builder(name.text()).start(tree).is_err());
        name.assert_nothing_left();
    });
}
