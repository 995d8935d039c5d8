//! One subscription's filter as its owner means it, free of any wire shape.

/// A subscription's filter. All parts must hold; the default asks for nothing and takes every event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FilterSpec {
    /// Event types taken, compared without case. `None`, an empty list and a list with `All` take every type;
    /// they are kept apart only so that the owner reads back what was written.
    pub event_types: Option<Vec<String>>,
    /// Empty takes every subject, also a missing one.
    pub subject_begins_with: String,
    /// Empty takes every subject, also a missing one.
    pub subject_ends_with: String,
    pub subject_case_sensitive: bool,
    /// Whether a key that holds an array is judged by the array's elements (`filters` contract section 4).
    pub arrays: bool,
    pub advanced: Vec<AdvancedFilter>,
}

/// One advanced filter: an operator on the value at a key.
#[derive(Clone, Debug, PartialEq)]
pub struct AdvancedFilter {
    /// A context attribute's name, `data`, or a path into the data such as `data.a.b`.
    pub key: String,
    pub operator: Operator,
}

/// The operators of the `filters` contract section 2, each with what it compares to.
#[derive(Clone, Debug, PartialEq)]
pub enum Operator {
    NumberIn(Vec<f64>),
    NumberNotIn(Vec<f64>),
    NumberLessThan(f64),
    NumberGreaterThan(f64),
    NumberLessThanOrEquals(f64),
    NumberGreaterThanOrEquals(f64),
    /// Both ends are inside.
    NumberInRange(Vec<(f64, f64)>),
    NumberNotInRange(Vec<(f64, f64)>),
    BoolEquals(bool),
    StringIn(Vec<String>),
    StringNotIn(Vec<String>),
    StringContains(Vec<String>),
    StringNotContains(Vec<String>),
    StringBeginsWith(Vec<String>),
    StringNotBeginsWith(Vec<String>),
    StringEndsWith(Vec<String>),
    StringNotEndsWith(Vec<String>),
    IsNullOrUndefined,
    IsNotNull,
}

impl Operator {
    /// Its `operatorType`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NumberIn(_) => "NumberIn",
            Self::NumberNotIn(_) => "NumberNotIn",
            Self::NumberLessThan(_) => "NumberLessThan",
            Self::NumberGreaterThan(_) => "NumberGreaterThan",
            Self::NumberLessThanOrEquals(_) => "NumberLessThanOrEquals",
            Self::NumberGreaterThanOrEquals(_) => "NumberGreaterThanOrEquals",
            Self::NumberInRange(_) => "NumberInRange",
            Self::NumberNotInRange(_) => "NumberNotInRange",
            Self::BoolEquals(_) => "BoolEquals",
            Self::StringIn(_) => "StringIn",
            Self::StringNotIn(_) => "StringNotIn",
            Self::StringContains(_) => "StringContains",
            Self::StringNotContains(_) => "StringNotContains",
            Self::StringBeginsWith(_) => "StringBeginsWith",
            Self::StringNotBeginsWith(_) => "StringNotBeginsWith",
            Self::StringEndsWith(_) => "StringEndsWith",
            Self::StringNotEndsWith(_) => "StringNotEndsWith",
            Self::IsNullOrUndefined => "IsNullOrUndefined",
            Self::IsNotNull => "IsNotNull",
        }
    }

    /// How many values it counts for against the limit of values; a range is one.
    pub fn value_count(&self) -> usize {
        match self {
            Self::NumberIn(values) | Self::NumberNotIn(values) => values.len(),
            Self::NumberInRange(ranges) | Self::NumberNotInRange(ranges) => ranges.len(),
            Self::StringIn(values)
            | Self::StringNotIn(values)
            | Self::StringContains(values)
            | Self::StringNotContains(values)
            | Self::StringBeginsWith(values)
            | Self::StringNotBeginsWith(values)
            | Self::StringEndsWith(values)
            | Self::StringNotEndsWith(values) => values.len(),
            Self::NumberLessThan(_)
            | Self::NumberGreaterThan(_)
            | Self::NumberLessThanOrEquals(_)
            | Self::NumberGreaterThanOrEquals(_)
            | Self::BoolEquals(_) => 1,
            Self::IsNullOrUndefined | Self::IsNotNull => 0,
        }
    }
}

impl FilterSpec {
    /// Whether the event's type does not matter.
    pub fn takes_every_type(&self) -> bool {
        self.event_types
            .as_ref()
            .is_none_or(|types| types.is_empty() || types.iter().any(|name| name.eq_ignore_ascii_case("All")))
    }
}
