//! Domain patterns in numbers, for measurements: hosts and services of many organisations, as they stand in lists.

use fastrand::Rng;

use crate::domain::{DomainMatch, DomainPattern};

const HOSTS: [&str; 24] = [
    "www",
    "api",
    "cdn",
    "img",
    "static",
    "mail",
    "auth",
    "login",
    "app",
    "data",
    "assets",
    "edge",
    "eu-west-1",
    "us-east-1",
    "metrics",
    "events",
    "files",
    "git",
    "registry",
    "packages",
    "docs",
    "status",
    "video",
    "search",
];
const ENDS: [&str; 10] = [
    "com", "net", "org", "io", "dev", "co.uk", "de", "cloud", "com.br", "internal",
];
const SYLLABLES: [&str; 24] = [
    "ba", "co", "da", "fi", "go", "ha", "ju", "ka", "li", "mo", "na", "pe", "qui", "ra", "sol",
    "ta", "ul", "ver", "wy", "xen", "yo", "zi", "tech", "soft",
];

fn one_of(rng: &mut Rng, texts: &[&'static str]) -> &'static str {
    texts[rng.usize(..texts.len())]
}

fn organisation(rng: &mut Rng) -> String {
    let mut name: String = (0..rng.usize(2..5))
        .map(|_| one_of(rng, &SYLLABLES))
        .collect();
    if rng.u8(..4) == 0 {
        name += &rng.u16(..1000).to_string();
    }
    name
}

/// `number` patterns, always the same: half exact names, nearly half `*.` names, a few with a glob in a label.
///
/// # Panics
///
/// Never: what it writes are patterns.
#[must_use]
pub fn domains(number: usize) -> Vec<DomainPattern> {
    let mut rng = Rng::with_seed(1);
    (0..number)
        .map(|_| {
            let host = one_of(&mut rng, &HOSTS);
            let site = format!("{}.{}", organisation(&mut rng), one_of(&mut rng, &ENDS));
            let text = match rng.u8(..100) {
                0..50 => format!("{host}.{site}"),
                50..95 => format!("*.{site}"),
                95..98 => format!("{host}-?.{site}"),
                _ => format!("{host}-*.{site}"),
            };
            DomainPattern::new(&text, DomainMatch::Glob).expect("it is a pattern")
        })
        .collect()
}
