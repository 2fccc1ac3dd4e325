//! Who may connect to a socket.

use crate::check::{Section, Surroundings};
use crate::raw::RawAccount;
use crate::types::{Account, SocketAccess, SocketMode};

/// The three keys that say who may connect, under the names they have in their section.
pub(super) struct RawAccess<'a> {
    pub(super) mode: (&'static str, Option<&'a str>),
    pub(super) owner: (&'static str, Option<&'a RawAccount>),
    pub(super) group: (&'static str, Option<&'a RawAccount>),
}

/// Invalid values are reported and replaced by their defaults.
pub(super) fn access(section: &mut Section<'_, '_>, raw: &RawAccess<'_>, around: &Surroundings<'_>) -> SocketAccess {
    let mode = raw.mode.1.and_then(|text| section.parse(raw.mode.0, text));
    let machine = around.machine;
    let owner = account(section, raw.owner.0, raw.owner.1);
    if let Some(Account::Name(name)) = &owner
        && machine.users.as_ref().is_some_and(|users| !users.contains_key(name))
    {
        section.problem(
            raw.owner.0,
            format!("there is no user {name:?} in /etc/passwd"),
            "create the user, or write its number if a directory service knows it",
        );
    }
    let group = account(section, raw.group.0, raw.group.1);
    if let Some(Account::Name(name)) = &group
        && machine.groups.as_ref().is_some_and(|groups| !groups.contains_key(name))
    {
        section.problem(
            raw.group.0,
            format!("there is no group {name:?} in /etc/group"),
            "create the group, or write its number if a directory service knows it",
        );
    }
    SocketAccess { mode: mode.unwrap_or(SocketMode::DEFAULT), owner, group }
}

fn account(section: &mut Section<'_, '_>, key: &str, raw: Option<&RawAccount>) -> Option<Account> {
    match raw? {
        // -1 means "leave it" to chown(2), so it is nobody's number.
        RawAccount::Id(id) => section.number(key, Some(*id), 0..=i64::from(u32::MAX) - 1).map(Account::Id),
        RawAccount::Name(name) if is_account_name(name) => Some(Account::Name(name.clone())),
        RawAccount::Name(name) => {
            section.problem(key, format!("{name:?} cannot be an account"), "write a name or a number, such as \"kvm\"");
            None
        }
    }
}

fn is_account_name(name: &str) -> bool {
    !name.is_empty() && !name.contains([':', '/', '\0']) && !name.chars().any(char::is_whitespace)
}
