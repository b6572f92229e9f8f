//! What the helper costs beside the same system calls made without it, and what
//! its processes hold of memory. `docs/performance.md` says how to read it.
//!
//! `cargo bench -p mountwarden-helper` runs all of it, as root or, where the
//! system lets users make namespaces, as any user; an argument picks the
//! sections whose names contain it. Nothing is mounted outside a mount namespace
//! of its own. No time is asserted: the exit status says only whether it ran.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "the bench makes its own file tree and starts the helper; it holds no one's trust"
)]

mod batch;
mod chain;
mod crowd;
mod fairness;
mod flood;
mod kinds;
mod memory;
mod namespace;
mod pairs;
mod raw;
mod report;
mod server;

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mountwarden_client::Client;

use crate::namespace::Namespace;
use crate::report::Series;
use crate::server::{Limits, Place, Server};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How often each thing is done.
#[derive(Clone, Copy)]
struct Rounds {
    warm_up: usize,
    pairs: usize,
    connects: usize,
    crowd_pairs: usize,
    lists: usize,
    crowd: usize,
    looks: usize,
}

impl Rounds {
    const FULL: Self = Self {
        warm_up: 200,
        pairs: 8000,
        connects: 1000,
        crowd_pairs: 3000,
        lists: 50,
        crowd: 20_000,
        looks: 150,
    };
    /// Without `--bench`, cargo only wants to know whether it works.
    const SMOKE: Self = Self {
        warm_up: 2,
        pairs: 20,
        connects: 5,
        crowd_pairs: 10,
        lists: 2,
        crowd: 200,
        looks: 3,
    };
}

/// A section, its name on the command line, and what it does.
type Section = (&'static str, fn(&Place, &Server, Rounds) -> Outcome<()>);

/// Memory comes first: nothing but the start has touched the helper then.
const SECTIONS: [Section; 8] = [
    ("memory", memory::run),
    ("pairs", pairs::run),
    ("kinds", kinds::run),
    ("network", kinds::network),
    ("batch", batch::run),
    ("connect", connect),
    ("crowd", crowd::run),
    ("fairness", fairness::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(relay) = arguments.first().and_then(|name| chain::relay(name)) {
        return match relay() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    if flood::is_flood(&arguments) {
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("latency: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Outcome<()> {
    let (options, filters): (Vec<_>, Vec<_>) =
        arguments.iter().partition(|text| text.starts_with('-'));
    let full = options.iter().any(|option| *option == "--bench");
    for option in options.iter().filter(|option| **option != "--bench") {
        println!("ignored: the option {option}");
    }
    let sections: Vec<Section> = SECTIONS
        .into_iter()
        .filter(|(name, _)| {
            filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str()))
        })
        .collect();
    if sections.is_empty() {
        let names = SECTIONS.map(|(name, _)| name).join(", ");
        println!("SKIPPED everything: no section has such a name ({names})");
        return Ok(());
    }
    let namespace = match Namespace::enter() {
        Ok(namespace) => namespace,
        Err(why) => {
            println!("SKIPPED everything: {why}");
            return Ok(());
        }
    };
    let begun = Instant::now();
    report::head(namespace, full);
    let place = Place::make()?;
    let server = Server::start(&place, namespace, Limits::None)?;
    let rounds = if full { Rounds::FULL } else { Rounds::SMOKE };
    for (_, section) in sections {
        section(&place, &server, rounds)?;
    }
    println!("\ntook {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Connecting: two forks, two confinements, one handshake.
fn connect(_: &Place, server: &Server, rounds: Rounds) -> Outcome<()> {
    let mut series = Series::new("connect and handshake");
    for round in 0..rounds.warm_up.saturating_add(rounds.connects) {
        let begun = Instant::now();
        let client = Client::connect_to(&server.socket)?;
        let took = begun.elapsed();
        drop(client);
        // The pair that ends must not share the two cores with the next start.
        std::thread::sleep(Duration::from_millis(2));
        if round >= rounds.warm_up {
            series.add(took);
        }
    }
    report::section("A new connection (two processes each)");
    report::columns();
    let connect = report::series(series, None);
    report::target("connect, in ms", connect.median / 1000.0, 3.0);
    Ok(())
}
