//! The library and the command against a scripted helper: refusals, deadlines,
//! lost connections and replies that no honest helper sends; what the command
//! prints, and the status that it exits with.
#![forbid(unsafe_code)]

#[cfg(test)]
mod support;

#[cfg(test)]
mod library {
    mod deadline;
    mod detached;
    mod handshake;
    mod hostile;
    mod passing;
    mod reconnect;
    mod requests;
}

#[cfg(test)]
#[cfg(feature = "cli")]
mod command {
    mod failures;
    mod fusermount;
    mod output;
    mod results;
    mod run;
    mod usage;
}
