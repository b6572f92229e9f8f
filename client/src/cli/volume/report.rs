//! What the commands of volumes found out or did.

use std::fmt::Write as _;

use mountwarden_protocol::escape::Safe;
use serde::Serialize;

use crate::Error;
use crate::cli::exit::Exit;
use crate::cli::json;
use crate::cli::style::{BAD, GOOD, WARNING};
use crate::volume::{
    Connected, Connection, Disconnected, Disconnection, Topmost, Validity, Volume,
};

/// An answer, in the form of `--json`.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Report {
    Connected(Changed),
    Disconnected(Changed),
    Found(Found),
    List { volumes: Vec<Found> },
}

#[derive(Serialize)]
pub(crate) struct Changed {
    volume: String,
    target: String,
    device: String,
    outcome: &'static str,
    warning: Option<&'static str>,
    id: Option<u64>,
    uses: usize,
}

#[derive(Serialize)]
pub(crate) struct Found {
    volume: String,
    target: String,
    device: String,
    state: &'static str,
    #[serde(skip)]
    validity: Validity,
    errno: Option<i32>,
    id: Option<u64>,
    #[serde(rename = "type")]
    filesystem: Option<String>,
    source: Option<String>,
    uses: usize,
}

impl Changed {
    fn of(volume: &Volume, outcome: &'static str, mount: Option<&Topmost>, uses: usize) -> Self {
        Self {
            volume: volume.name().to_owned(),
            target: json::path(volume.target().as_path()),
            device: json::path(volume.device()),
            outcome,
            warning: None,
            id: mount.and_then(|mount| mount.id).map(Into::into),
            uses,
        }
    }
}

impl Found {
    /// Looks.
    pub(super) fn of(volume: &Volume) -> Result<Self, Error> {
        let found = volume.validate()?;
        let mount = found.mount.as_ref();
        Ok(Self {
            volume: volume.name().to_owned(),
            target: json::path(volume.target().as_path()),
            device: json::path(volume.device()),
            state: found.validity.name(),
            validity: found.validity,
            errno: match found.validity {
                Validity::Stale { errno } => Some(errno),
                _ => None,
            },
            id: mount.and_then(|mount| mount.id).map(Into::into),
            filesystem: mount.map(|mount| mount.filesystem.clone()),
            source: mount.map(|mount| mount.source.clone()),
            uses: volume.uses()?,
        })
    }

    fn exit(&self) -> Exit {
        match self.validity {
            Validity::Good => Exit::Done,
            Validity::Absent => Exit::NotThere,
            Validity::Foreign => Exit::Busy,
            Validity::Stale { .. } | Validity::Hung => Exit::Dead,
        }
    }

    fn text(&self) -> String {
        let style = match self.validity {
            Validity::Good => GOOD,
            Validity::Absent => WARNING,
            _ => BAD,
        };
        let mut text = format!(
            "{} at {} is {style}{}{style:#}",
            Safe(&self.volume),
            Safe(&self.target),
            self.validity.name()
        );
        // Writing to a string cannot fail.
        if let Some(errno) = self.errno {
            let _ = write!(text, ": {}", std::io::Error::from_raw_os_error(errno));
        }
        if let (Some(filesystem), Some(source)) = (&self.filesystem, &self.source) {
            let _ = write!(text, ", {} from \"{}\"", Safe(filesystem), Safe(source));
        }
        let _ = writeln!(text, " ({})", facts(self.id, self.uses));
        text
    }
}

impl Report {
    pub(super) fn connected(volume: &Volume, connected: &Connected) -> Self {
        let outcome = match connected.how {
            Connection::AlreadyGood => "already-good",
            Connection::Mounted => "mounted",
            Connection::Repaired => "repaired",
        };
        let mount = Some(&connected.mount);
        Self::Connected(Changed::of(volume, outcome, mount, connected.uses))
    }

    pub(super) fn disconnected(volume: &Volume, disconnected: &Disconnected) -> Self {
        let outcome = match disconnected.how {
            Disconnection::Unmounted => "unmounted",
            Disconnection::StillUsed => "still-used",
            Disconnection::Absent => "absent",
            Disconnection::Left => "left",
        };
        let mount = disconnected.mount.as_ref();
        let mut changed = Changed::of(volume, outcome, mount, disconnected.uses);
        changed.warning = disconnected.warning.map(Validity::name);
        Self::Disconnected(changed)
    }

    /// The status that the command ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Connected(_) | Self::Disconnected(_) | Self::List { .. } => Exit::Done,
            Self::Found(found) => found.exit(),
        }
    }

    /// As lines of text.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Connected(changed) => changed.text(match changed.outcome {
                "already-good" => "is connected already",
                "repaired" => "was dead, and is connected",
                _ => "is connected",
            }),
            Self::Disconnected(changed) => changed.text(match changed.outcome {
                "unmounted" => "is unmounted",
                "still-used" => "is still used by others",
                "absent" => "was not mounted",
                _ => "is dead and in use; its mount is left",
            }),
            Self::Found(found) => found.text(),
            Self::List { volumes } => volumes.iter().map(Found::text).collect(),
        }
    }
}

impl Changed {
    fn text(&self, what: &str) -> String {
        let (volume, device) = (Safe(&self.volume), Safe(&self.device));
        let mut text = format!("{volume} at {device} {GOOD}{what}{GOOD:#}");
        if let Some(warning) = self.warning {
            // Writing to a string cannot fail.
            let _ = write!(text, " {WARNING}(it was {warning}){WARNING:#}");
        }
        format!("{text} ({})\n", facts(self.id, self.uses))
    }
}

fn facts(id: Option<u64>, uses: usize) -> String {
    let id = id.map_or_else(String::new, |id| format!("id {id}, "));
    format!("{id}uses: {uses}")
}
