//! Roots, in which `{uid}` and `{user}` stand for the peer.

use std::fmt;

use mountwarden_protocol::{AbsPath, InvalidPath};

use crate::error::escaped;

/// A root of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
    constant_prefix: AbsPath,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Uid,
    User,
}

/// Why a text is not a root.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidTemplate {
    #[error("a brace stands only in {{uid}} and {{user}}")]
    Brace,
    #[error(transparent)]
    Path(#[from] InvalidPath),
}

impl Template {
    /// Reads a root.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        Ok(Self {
            parts: parts(text)?,
            constant_prefix: constant_prefix(text)?,
        })
    }

    /// Tries every expansion that can be asked for later, so that a root never
    /// turns out to be no path when a request is judged. `names` are the users
    /// for whom it may be expanded.
    pub(crate) fn check(&self, names: &[&str]) -> Result<(), InvalidPath> {
        if self.names_user() {
            for name in names {
                self.path(u32::MAX, name)?;
            }
        } else {
            self.path(u32::MAX, "")?;
        }
        Ok(())
    }

    /// Whether `{user}` stands in it.
    pub(crate) fn names_user(&self) -> bool {
        self.parts.contains(&Part::User)
    }

    /// Whether it is the same path for every peer.
    pub(crate) fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The directories before the first component that a peer fills in; all of
    /// the path where there is none.
    pub(crate) fn constant_prefix(&self) -> &AbsPath {
        &self.constant_prefix
    }

    /// The paths it stands for: one, or one for each name where `{user}` is in it.
    pub(crate) fn expand(&self, uid: u32, names: &[&str]) -> Vec<AbsPath> {
        // What `check` has tried is a path; what it has not tried grants nothing.
        if self.names_user() {
            names
                .iter()
                .filter_map(|name| self.path(uid, name).ok())
                .collect()
        } else {
            self.path(uid, "").into_iter().collect()
        }
    }

    fn path(&self, uid: u32, name: &str) -> Result<AbsPath, InvalidPath> {
        AbsPath::new(self.filled_in(&uid.to_string(), name))
    }

    /// The root as the policy writes it.
    pub(crate) fn text(&self) -> String {
        self.filled_in("{uid}", "{user}")
    }

    fn filled_in(&self, uid: &str, name: &str) -> String {
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text,
            Part::Uid => uid,
            Part::User => name,
        });
        parts.collect()
    }
}

/// Prints the root as the policy writes it, control characters escaped.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(&self.text()))
    }
}

fn parts(text: &str) -> Result<Vec<Part>, InvalidTemplate> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(brace) = rest.find(['{', '}']) {
        let (before, from_brace) = rest.split_at_checked(brace).ok_or(InvalidTemplate::Brace)?;
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        rest = if let Some(after) = from_brace.strip_prefix("{uid}") {
            parts.push(Part::Uid);
            after
        } else if let Some(after) = from_brace.strip_prefix("{user}") {
            parts.push(Part::User);
            after
        } else {
            return Err(InvalidTemplate::Brace);
        };
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

fn constant_prefix(text: &str) -> Result<AbsPath, InvalidPath> {
    let Some((before, _)) = text.split_once('{') else {
        return AbsPath::new(text);
    };
    match before.rsplit_once('/') {
        Some(("", _)) => AbsPath::new("/"),
        Some((directories, _)) => AbsPath::new(directories),
        None => Err(InvalidPath::Relative),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expansions(text: &str, uid: u32, names: &[&str]) -> Vec<String> {
        Template::parse(text)
            .unwrap()
            .expand(uid, names)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn placeholders_stand_anywhere_in_a_component() {
        assert_eq!(expansions("/run/x", 7, &[]), ["/run/x"]);
        assert_eq!(expansions("/run/{uid}/x", 7, &[]), ["/run/7/x"]);
        assert_eq!(expansions("/a-{uid}-{uid}", 7, &[]), ["/a-7-7"]);
        assert_eq!(
            expansions("/home/{user}/{uid}", 7, &["a", "b"]),
            ["/home/a/7", "/home/b/7"]
        );
    }

    #[test]
    fn a_name_is_never_expanded_again() {
        assert_eq!(expansions("/h/{user}", 7, &["{uid}"]), ["/h/{uid}"]);
    }

    #[test]
    fn every_other_brace_is_refused() {
        for text in [
            "/a/{",
            "/a/}",
            "/a/{gid}",
            "/a/{uid",
            "/a/{uid}}",
            "/a/{{uid}",
            "/a/{ uid }",
            "/a/{}",
        ] {
            assert_eq!(Template::parse(text), Err(InvalidTemplate::Brace), "{text}");
        }
    }

    fn check(text: &str, names: &[&str]) -> Result<(), InvalidPath> {
        Template::parse(text).unwrap().check(names)
    }

    #[test]
    fn the_longest_expansion_is_tried_before_it_is_needed() {
        let fits = format!("/{}{{uid}}", "a".repeat(245));
        assert_eq!(check(&fits, &[]), Ok(()));
        let above = format!("/{}{{uid}}", "a".repeat(246));
        assert_eq!(check(&above, &[]), Err(InvalidPath::ComponentTooLong));
        assert_eq!(check("/a{user}", &["b", ".."]), Ok(()));
        assert_eq!(check("/{user}", &["b", ".."]), Err(InvalidPath::Dots));
        assert_eq!(check("/{uid}//b", &[]), Err(InvalidPath::EmptyComponent));
    }

    #[test]
    fn the_constant_prefix_ends_before_the_first_component_with_a_placeholder() {
        for (text, prefix) in [
            ("/run/vms/{uid}/x", "/run/vms"),
            ("/srv/vm-{uid}", "/srv"),
            ("/{uid}", "/"),
            ("/vm-{user}/a", "/"),
            ("/srv/images", "/srv/images"),
            ("/", "/"),
        ] {
            let template = Template::parse(text).unwrap();
            assert_eq!(template.constant_prefix().to_string(), prefix, "{text}");
        }
    }
}
