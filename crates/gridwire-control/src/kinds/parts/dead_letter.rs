//! Dead-letter destinations: a blob container, plain or in a `…WithResourceIdentity`.

use gridwire_core::api_error::ApiError;
use gridwire_core::routing::DeadLetterDestination;
use serde_json::{Map, Value, json};

use super::Identity;
use crate::limits::RESOURCE_ID_BYTES_MAX;
use crate::members::{Members, invalid};
use crate::options::PublicAddresses;

/// A dead-letter destination as it was configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// The wrapper's member name, and the identity in it.
    wrapper: Option<(&'static str, Identity)>,
    resource_id: String,
    pub(crate) destination: DeadLetterDestination,
}

/// Reads `deadLetterDestination` of `owner` (when `plain`), or the member called `wrapper`.
pub(crate) fn read(
    owner: &Members<'_>,
    plain: bool,
    wrapper: &'static str,
) -> Result<Option<DeadLetter>, ApiError> {
    let unwrapped = if plain { owner.object("deadLetterDestination")? } else { None };
    match (unwrapped, owner.object(wrapper)?) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            Err(owner.wrong("deadLetterDestination", &format!("left out when `{wrapper}` is given")))
        }
        (Some(destination), None) => read_destination(&destination, None).map(Some),
        (None, Some(members)) => {
            let identity = Identity::read(&members)?;
            match members.object("deadLetterDestination")? {
                None => Err(members.wrong("deadLetterDestination", "given")),
                Some(destination) => read_destination(&destination, Some((wrapper, identity))).map(Some),
            }
        }
    }
}

fn read_destination(
    destination: &Members<'_>,
    wrapper: Option<(&'static str, Identity)>,
) -> Result<DeadLetter, ApiError> {
    if destination.choice("endpointType", &[("StorageBlob", ())])?.is_none() {
        return Err(destination.wrong("endpointType", "`StorageBlob`"));
    }
    let Some(properties) = destination.object("properties")? else {
        return Err(destination.wrong("properties", "given"));
    };
    let resource_id = properties.text("resourceId")?.unwrap_or_default();
    let Some(account) = account_of(resource_id) else {
        return Err(properties.wrong("resourceId", "the resource id of a storage account"));
    };
    let container = properties.text("blobContainerName")?.unwrap_or_default();
    if !is_container_name(container) {
        return Err(invalid(format!(
            "The property `{}` must be a container name: 3 to 63 lower-case letters, digits and single hyphens.",
            properties.path("blobContainerName")
        )));
    }
    Ok(DeadLetter {
        wrapper,
        resource_id: resource_id.to_owned(),
        destination: DeadLetterDestination { account, container: container.to_owned() },
    })
}

/// The storage account's name. It becomes part of a path, so only what a storage account can be called passes.
fn account_of(resource_id: &str) -> Option<String> {
    if resource_id.len() > RESOURCE_ID_BYTES_MAX || !resource_id.starts_with('/') {
        return None;
    }
    let (scope, name) = resource_id.rsplit_once('/')?;
    let tail = "/providers/microsoft.storage/storageaccounts";
    let lower = scope.to_ascii_lowercase();
    let valid = (3..=24).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && lower.ends_with(tail)
        && !resource_id.chars().any(char::is_control);
    valid.then(|| name.to_ascii_lowercase())
}

fn is_container_name(name: &str) -> bool {
    (3..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

impl DeadLetter {
    /// Tells in its owner, where [`DeadLetter::put`] has put it, where its letters are. Not a property of the
    /// service's; clients ignore it, and it is ignored when they send it back.
    pub(crate) fn locate(&self, public: &PublicAddresses, owner: &mut Map<String, Value>) {
        let DeadLetterDestination { account, container } = &self.destination;
        let location = match public.letter_accounts.get(account) {
            Some(url) => format!("{url}/{container}"),
            None => format!("deadletter/{account}/{container} in the data directory"),
        };
        let destination = match &self.wrapper {
            None => owner.get_mut("deadLetterDestination"),
            Some((name, _)) => {
                owner.get_mut(*name).and_then(|wrapper| wrapper.get_mut("deadLetterDestination"))
            }
        };
        if let Some(destination) = destination {
            destination["properties"]["lettersAt"] = location.into();
        }
    }

    /// Puts it into its owner, as it was configured.
    pub(crate) fn put(&self, owner: &mut Map<String, Value>) {
        let destination = json!({
            "endpointType": "StorageBlob",
            "properties": {
                "resourceId": self.resource_id,
                "blobContainerName": self.destination.container,
            },
        });
        match &self.wrapper {
            None => owner.insert("deadLetterDestination".into(), destination),
            Some((name, identity)) => {
                owner.insert((*name).into(), identity.wrap("deadLetterDestination", destination))
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_storage_accounts_id_names_an_account() {
        let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/";
        assert_eq!(account_of(&format!("{id}Dead01")).as_deref(), Some("dead01"));
        for name in ["", "..", "ab", "a/b", "a-b", "a.b", "abcdefghijklmnopqrstuvwxyz"] {
            assert_eq!(account_of(&format!("{id}{name}")), None, "{name}");
        }
        assert_eq!(account_of("dead01"), None);
        assert_eq!(account_of("/subscriptions/s/dead01"), None);
    }

    #[test]
    fn letters_for_a_configured_account_are_there_and_others_in_a_directory() {
        let of = |account: &str| DeadLetter {
            wrapper: None,
            resource_id: String::new(),
            destination: DeadLetterDestination {
                account: account.to_owned(),
                container: "failed".to_owned(),
            },
        };
        let mut public = PublicAddresses::default();
        public.letter_accounts.insert("dead01".to_owned(), "https://dead01.example".to_owned());
        let location = |account: &str| {
            let mut owner = Map::new();
            of(account).put(&mut owner);
            of(account).locate(&public, &mut owner);
            owner["deadLetterDestination"]["properties"]["lettersAt"].clone()
        };
        assert_eq!(location("dead01"), "https://dead01.example/failed");
        assert_eq!(location("dead02"), "deadletter/dead02/failed in the data directory");
    }

    #[test]
    fn container_names_cannot_leave_their_directory() {
        for (name, valid) in [
            ("dead-letters", true),
            ("abc", true),
            ("ab", false),
            ("..", false),
            ("a..", false),
            ("a/b", false),
            ("Abc", false),
            ("-abc", false),
            ("abc-", false),
            ("a--b", false),
        ] {
            assert_eq!(is_container_name(name), valid, "{name}");
        }
    }
}
