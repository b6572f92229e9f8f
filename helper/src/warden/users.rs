//! Who is connected, and how often.
#![forbid(unsafe_code)]

use mountwarden_policy::Limits;
use mountwarden_protocol::{ErrorCode, ErrorReply};

use crate::board::Board;
use crate::budget::Budget;
use crate::children;

/// A user that has connected; its index is its place on the board.
struct User {
    uid: u32,
    connections: u32,
}

/// The users, as many as there may be connections.
pub(super) struct Users(Vec<Option<User>>);

impl Users {
    pub(super) fn new(limits: &Limits) -> Self {
        let places = usize::try_from(limits.connections).unwrap_or(usize::MAX);
        Self(std::iter::repeat_with(|| None).take(places).collect())
    }

    /// Finds a user's place, or says which limit it has reached. `open` is how many
    /// connections there are.
    pub(super) fn admit(
        &mut self,
        uid: u32,
        open: usize,
        limits: &Limits,
        board: Board,
    ) -> Result<usize, ErrorReply> {
        let full = |message| Err(ErrorReply::new(ErrorCode::LimitReached, message));
        if u32::try_from(open).unwrap_or(u32::MAX) >= limits.connections {
            return full(children::too_many(limits.connections));
        }
        let mut users = self.0.iter().enumerate();
        let known = users.find_map(|(place, user)| {
            let user = user.as_ref().filter(|user| user.uid == uid)?;
            Some((place, user.connections))
        });
        if let Some((place, connections)) = known {
            return if connections < limits.connections_per_user {
                Ok(place)
            } else {
                full(children::too_many_of_user(limits.connections_per_user))
            };
        }
        let budget = |place| board.budget(place, limits.requests_per_second);
        let debt = |place| budget(place).map_or(0, Budget::debt);
        let Some(place) = free_place(&self.0, debt) else {
            return full(children::too_many(limits.connections));
        };
        if let Some(slot) = self.0.get_mut(place) {
            *slot = Some(User {
                uid,
                connections: 0,
            });
        }
        if let (Some(count), Some(budget)) = (board.mounts(place), budget(place)) {
            count.forget();
            budget.forget();
        }
        Ok(place)
    }

    /// One connection more.
    pub(super) fn connected(&mut self, place: usize) {
        if let Some(Some(user)) = self.0.get_mut(place) {
            user.connections = user.connections.saturating_add(1);
        }
    }

    /// One connection fewer.
    pub(super) fn disconnected(&mut self, place: usize) {
        if let Some(Some(user)) = self.0.get_mut(place) {
            user.connections = user.connections.saturating_sub(1);
        }
    }
}

/// A free place, or that of a user who is not connected now: of these the one with
/// the least debt, because that will be forgotten.
fn free_place(users: &[Option<User>], debt: impl Fn(usize) -> u64) -> Option<usize> {
    let free = |user: &Option<User>| user.as_ref().is_none_or(|user| user.connections == 0);
    let places = users.iter().enumerate();
    places
        .filter_map(|(place, user)| free(user).then_some(place))
        .min_by_key(|&place| debt(place))
}

#[cfg(test)]
mod tests {
    use super::{User, free_place};

    #[test]
    fn a_debt_is_forgotten_last() {
        let user = |connections| {
            Some(User {
                uid: 1,
                connections,
            })
        };
        let users = [user(1), user(0), None, user(0)];
        assert_eq!(free_place(&users, |place| [0, 5, 0, 1][place]), Some(2));
        assert_eq!(free_place(&users, |place| [0, 5, 9, 1][place]), Some(3));
        assert_eq!(free_place(&users[..1], |_| 0), None);
    }
}
