//! stub
/// A custom topic's `inputSchemaMapping`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputMapping {}
