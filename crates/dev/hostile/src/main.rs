//! `selfie-hostile KIND FILE..`: runs inputs through their check and says what each took.

use std::env;
use std::fs;

use selfie_hostile::{bounded, check};

fn main() {
    let mut args = env::args().skip(1);
    let kind = args.next().expect("usage: selfie-hostile KIND FILE..");
    for path in args {
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let cost = bounded(check(&kind), &bytes);
        println!("{path}: {cost:?}");
    }
}
