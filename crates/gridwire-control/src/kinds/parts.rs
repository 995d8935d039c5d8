//! What several kinds have in common: destinations, identities, dates.

pub(super) mod attributes;
pub(super) mod dead_letter;
pub(super) mod destination;
mod forward;
pub(super) mod tls;
pub(super) mod webhook;

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::event::{DeliverySchema, InputSchema};
use gridwire_core::time::Timestamp;
use serde_json::{Value, json};

use super::Admission;
use crate::limits::RESOURCE_ID_BYTES_MAX;
use crate::members::{Members, invalid, without_controls};

/// The identity a destination is to be called with. Kept and shown, so that templates written for the hosted
/// service apply; Gridwire's own credentials are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// `None` when the wrapper came without an identity, which the model allows.
    kind: Option<&'static str>,
    user_assigned: Option<String>,
}

impl Identity {
    /// Reads the member `identity` of a `…WithResourceIdentity` object.
    pub(super) fn read(wrapper: &Members<'_>) -> Result<Self, ApiError> {
        let Some(identity) = wrapper.object("identity")? else {
            return Ok(Self { kind: None, user_assigned: None });
        };
        let kinds = [("SystemAssigned", "SystemAssigned"), ("UserAssigned", "UserAssigned")];
        let kind = identity.choice("type", &kinds)?.unwrap_or("SystemAssigned");
        let user_assigned = identity.text("userAssignedIdentity")?;
        if let Some(id) = user_assigned {
            if id.len() > RESOURCE_ID_BYTES_MAX {
                let must = format!("at most {RESOURCE_ID_BYTES_MAX} bytes long");
                return Err(identity.wrong("userAssignedIdentity", &must));
            }
            without_controls(&identity, "userAssignedIdentity", id)?;
        }
        Ok(Self { kind: Some(kind), user_assigned: user_assigned.map(str::to_owned) })
    }

    /// The `…WithResourceIdentity` object, with the destination in the member `name`.
    pub(super) fn wrap(&self, name: &str, destination: Value) -> Value {
        let mut wrapper = json!({});
        if let Some(kind) = self.kind {
            wrapper["identity"] = json!({ "type": kind });
        }
        if let Some(id) = &self.user_assigned {
            wrapper["identity"]["userAssignedIdentity"] = id.as_str().into();
        }
        wrapper[name] = destination;
        wrapper
    }
}

pub(super) const INPUT_SCHEMAS: &[(&str, InputSchema)] = &[
    ("EventGridSchema", InputSchema::EventGrid),
    ("CloudEventSchemaV1_0", InputSchema::CloudEvent),
    ("CustomEventSchema", InputSchema::Custom),
];

pub(super) const DELIVERY_SCHEMAS: &[(&str, DeliverySchema)] = &[
    ("EventGridSchema", DeliverySchema::EventGrid),
    ("CloudEventSchemaV1_0", DeliverySchema::CloudEvent),
    ("CustomInputSchema", DeliverySchema::Custom),
];

/// The writing of `value` in a table of choices.
pub(super) fn written<T: PartialEq>(choices: &[(&'static str, T)], value: &T) -> &'static str {
    choices.iter().find(|(_, known)| known == value).expect("the table lists every value").0
}

/// Reads `expirationTimeUtc`: a date-time, with or without an offset, or a date; without one it is UTC.
pub(super) fn read_expiration(members: &Members<'_>) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = members.text("expirationTimeUtc")? else { return Ok(None) };
    let parsed = Timestamp::parse_rfc3339(text).or_else(|| {
        let civil: jiff::civil::DateTime = text
            .parse()
            .or_else(|_| text.parse::<jiff::civil::Date>().map(|date| date.at(0, 0, 0, 0)))
            .ok()?;
        let instant = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
        u64::try_from(instant.as_millisecond()).ok().map(Timestamp::from_millis)
    });
    match parsed {
        Some(time) => Ok(Some(time)),
        None => Err(invalid(
            "Invalid expiration time. The property `expirationTimeUtc` must be an ISO 8601 date and time.",
        )),
    }
}

/// Refuses a new expiration time that has passed.
pub(super) fn admit_expiration(
    expires_at: Option<Timestamp>,
    admission: Admission<'_>,
) -> Result<(), ApiError> {
    let existing = admission.ground.existing.and_then(super::Facts::subscription);
    let unchanged = existing.is_some_and(|existing| existing.expires_at == expires_at);
    match expires_at {
        Some(time) if !unchanged && time <= admission.now => {
            Err(invalid("Invalid expiration time. The expiration time must be in the future."))
        }
        _ => Ok(()),
    }
}

/// A refusal of an endpoint's address.
pub(super) fn endpoint_forbidden(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::EndpointForbidden, message)
}
