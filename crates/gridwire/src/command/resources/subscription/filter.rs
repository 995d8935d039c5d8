//! Filters of events as they are typed: `KEY OPERATOR VALUE,VALUE...`.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

/// Every operator, as [`super::SubscriptionCommand`]'s help lists them.
const OPERATORS: [&str; 19] = [
    "StringIn",
    "StringNotIn",
    "StringContains",
    "StringNotContains",
    "StringBeginsWith",
    "StringNotBeginsWith",
    "StringEndsWith",
    "StringNotEndsWith",
    "NumberIn",
    "NumberNotIn",
    "NumberLessThan",
    "NumberGreaterThan",
    "NumberLessThanOrEquals",
    "NumberGreaterThanOrEquals",
    "NumberInRange",
    "NumberNotInRange",
    "BoolEquals",
    "IsNullOrUndefined",
    "IsNotNull",
];

/// `data.amount NumberGreaterThan 100` as the `filters` contract writes it.
pub(super) fn filter(text: &str) -> anyhow::Result<Value> {
    let mut parts = text.trim().splitn(3, char::is_whitespace);
    let (Some(key), Some(operator)) = (parts.next(), parts.next()) else {
        bail!("the filter `{text}` is not KEY OPERATOR VALUE, such as 'data.amount NumberGreaterThan 100'");
    };
    // In any case, as the server takes them.
    let Some(operator) = OPERATORS.iter().copied().find(|known| known.eq_ignore_ascii_case(operator)) else {
        bail!("the filter `{text}` has an unknown operator; these are: {}", OPERATORS.join(", "));
    };
    let values = parts.next().map(str::trim).unwrap_or_default();
    let mut filter = json!({ "operatorType": operator, "key": key });
    if operator.starts_with("Is") {
        ensure!(values.is_empty(), "the filter `{text}` takes no value");
        return Ok(filter);
    }
    ensure!(!values.is_empty(), "the filter `{text}` has no value");
    let number = |text: &str| {
        text.trim().parse::<serde_json::Number>().with_context(|| format!("`{text}` is not a number"))
    };
    if let Some(kind) = operator.strip_prefix("Number") {
        if kind.ends_with("Range") {
            let range = |text: &str| {
                let (low, high) =
                    text.split_once("..").with_context(|| format!("`{text}` is not a range such as 1..5"))?;
                anyhow::Ok(json!([number(low)?, number(high)?]))
            };
            filter["values"] = values.split(',').map(range).collect::<anyhow::Result<Value>>()?;
        } else if kind.ends_with("In") {
            filter["values"] = values
                .split(',')
                .map(|text| Ok(number(text)?.into()))
                .collect::<anyhow::Result<Vec<Value>>>()?
                .into();
        } else {
            filter["value"] = number(values)?.into();
        }
    } else if operator.starts_with("Bool") {
        filter["value"] =
            values.parse::<bool>().with_context(|| format!("`{values}` is not true or false"))?.into();
    } else {
        filter["values"] = values.split(',').map(|text| Value::from(text.trim())).collect();
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_key_an_operator_and_values() {
        let check = |text: &str, expect: Option<Value>| assert_eq!(filter(text).ok(), expect, "{text}");
        check(
            "data.a StringIn x, y",
            Some(json!({ "operatorType": "StringIn", "key": "data.a", "values": ["x", "y"] })),
        );
        check(
            "data.n NumberGreaterThan 1.5",
            Some(json!({ "operatorType": "NumberGreaterThan", "key": "data.n", "value": 1.5 })),
        );
        check(
            "data.n NumberIn 1,2",
            Some(json!({ "operatorType": "NumberIn", "key": "data.n", "values": [1, 2] })),
        );
        check(
            "data.n NumberInRange 1..5,7..9",
            Some(json!({ "operatorType": "NumberInRange", "key": "data.n", "values": [[1, 5], [7, 9]] })),
        );
        check(
            "data.b BoolEquals true",
            Some(json!({ "operatorType": "BoolEquals", "key": "data.b", "value": true })),
        );
        check("data.b IsNotNull", Some(json!({ "operatorType": "IsNotNull", "key": "data.b" })));
        check("data.b BoolEquals maybe", None);
        check("data.n NumberIn one", None);
        check("data.n", None);
        check("data.n StringIn", None);
        let said = filter("data.n Equals 1").unwrap_err().to_string();
        assert!(OPERATORS.iter().all(|operator| said.contains(operator)), "{said}");
    }
}
