//! Ten binds in one request, beside ten requests and the calls that cannot be spared.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mountwarden_client::{Batch, Bind, Client, ErrorKind};

use crate::report::{self, Series};
use crate::server::{Place, Server};
use crate::{Outcome, Rounds, raw};

const MOUNTS: usize = 10;

/// The places, and the connection.
struct Ten {
    client: Client,
    source: PathBuf,
    above: PathBuf,
    names: Vec<String>,
}

impl Ten {
    fn new(place: &Place, server: &Server) -> Outcome<Self> {
        let above = place.at("target/batch");
        let names: Vec<String> = (0..MOUNTS).map(|number| number.to_string()).collect();
        for name in &names {
            fs::create_dir_all(above.join(name))?;
        }
        Ok(Self {
            client: Client::connect_to(&server.socket)?,
            source: place.at("source"),
            above,
            names,
        })
    }

    fn binds(&self) -> Outcome<Vec<Bind>> {
        let bind = |name| Ok(Bind::new(&self.source, self.above.join(name))?);
        self.names.iter().map(bind).collect()
    }

    fn end(&self) -> Outcome<()> {
        let mut names = self.names.iter();
        names.try_for_each(|name| raw::unmount(&self.above, name.as_bytes()))
    }

    fn raw(&self) -> Outcome<Duration> {
        let begun = Instant::now();
        for name in &self.names {
            raw::bind(&self.source, &self.above.join(name))?;
        }
        let took = begun.elapsed();
        self.end()?;
        Ok(took)
    }

    fn requests(&mut self) -> Outcome<Duration> {
        let binds = self.binds()?;
        let begun = Instant::now();
        for bind in binds {
            self.client.mount(bind)?;
        }
        let took = begun.elapsed();
        self.end()?;
        Ok(took)
    }

    fn batch(&mut self) -> Outcome<Duration> {
        let batch = self.binds()?.into_iter().fold(Batch::new(), Batch::mount);
        let begun = Instant::now();
        self.client.apply(batch)?;
        let took = begun.elapsed();
        self.end()?;
        Ok(took)
    }

    /// One whose last mount cannot be made: all others are taken back.
    fn failing(&mut self) -> Outcome<Duration> {
        let batch = self.binds()?.into_iter().fold(Batch::new(), Batch::mount);
        let missing = Bind::new(&self.source, self.above.join("missing"))?;
        let begun = Instant::now();
        match self.client.apply(batch.mount(missing)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(begun.elapsed()),
            other => Err(format!("not what was to come of it: {other:?}").into()),
        }
    }
}

pub(crate) fn run(place: &Place, server: &Server, rounds: Rounds) -> Outcome<()> {
    let mut ten = Ten::new(place, server)?;
    let mut raw = Series::new("ten binds, raw").base();
    let mut requests = Series::new("ten requests");
    let mut batch = Series::new("a batch of ten");
    let mut failing = Series::new("ten, and all taken back");
    for _ in 0..rounds.looks {
        raw.add(ten.raw()?);
        requests.add(ten.requests()?);
        batch.add(ten.batch()?);
        failing.add(ten.failing()?);
    }
    report::section("Several mounts at once, over an open connection; their ends are not in it");
    report::columns();
    let raw = report::series(raw, None);
    for series in [requests, batch, failing] {
        report::series(series, Some(raw));
    }
    Ok(())
}
