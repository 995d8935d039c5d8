//! Reading a management request's body as a JSON object.

use gridwire_core::api_error::{ApiError, ErrorCode};
use gridwire_core::limits::{JSON_DEPTH_MAX, MANAGEMENT_BYTES_MAX};
use gridwire_http::Body;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Map, Value};

/// Reads the whole body; it must be one JSON object.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, ApiError> {
    check_headers(headers)?;
    parse(&body.read(MANAGEMENT_BYTES_MAX).await?)
}

/// As [`read`]; no body at all is an empty object.
pub(crate) async fn read_optional(headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, ApiError> {
    check_headers(headers)?;
    let bytes = body.read(MANAGEMENT_BYTES_MAX).await?;
    if bytes.is_empty() { Ok(Map::new()) } else { parse(&bytes) }
}

fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    check_depth(bytes)?;
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(ApiError::new(ErrorCode::InvalidJson, "The request body must be a JSON object.")),
        Err(error) => Err(ApiError::new(
            ErrorCode::InvalidJson,
            format!("The request body is not valid JSON (line {}, column {}).", error.line(), error.column()),
        )),
    }
}

fn check_headers(headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let message = "The request body must not be compressed: `Content-Encoding` is not supported.";
        return Err(ApiError::new(ErrorCode::UnsupportedEncoding, message));
    }
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if matches!(essence.as_str(), "application/json" | "text/json") || essence.ends_with("+json") {
        return Ok(());
    }
    let message = "The request body must be JSON: `Content-Type: application/json`.";
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, message))
}

/// Refuses deep nesting before anything recurses into it.
fn check_depth(bytes: &[u8]) -> Result<(), ApiError> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    let message =
                        format!("The request body is nested more than {JSON_DEPTH_MAX} levels deep.");
                    return Err(ApiError::new(ErrorCode::TooComplex, message));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_texts() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(check_depth(nested(JSON_DEPTH_MAX).as_bytes()).is_ok());
        assert!(check_depth(nested(JSON_DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(check_depth(format!(r#"{{"a\"": "{}"}}"#, "[".repeat(100)).as_bytes()).is_ok());
        assert!(check_depth("[]".repeat(100).as_bytes()).is_ok());
    }
}
