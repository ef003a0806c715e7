#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringmill_tests::hostile::records::text(input));
