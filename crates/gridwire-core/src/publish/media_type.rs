//! A `Content-Type` value: its type and its charset, compared without regard to case.

/// A parsed content type. Parameters other than `charset` are not looked at.
pub(super) struct MediaType<'a> {
    /// As it was sent, parameters and all.
    pub(super) text: &'a str,
    essence: &'a str,
    charset: Option<&'a str>,
}

impl<'a> MediaType<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let charset = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
        });
        Self { text, essence: essence.trim(), charset }
    }

    pub(super) fn is(&self, essence: &str) -> bool {
        self.essence.eq_ignore_ascii_case(essence)
    }

    /// Whether the body is UTF-8 as far as the sender says. ASCII is, too.
    pub(super) fn is_utf8(&self) -> bool {
        self.charset.is_none_or(|charset| {
            ["utf-8", "utf8", "us-ascii"].iter().any(|name| charset.eq_ignore_ascii_case(name))
        })
    }

    /// Any of the structured formats of `CloudEvents`, also those that are not taken.
    pub(super) fn is_cloud_events(&self) -> bool {
        let marker = "application/cloudevents";
        self.essence.get(..marker.len()).is_some_and(|start| start.eq_ignore_ascii_case(marker))
    }

    pub(super) fn is_plain_json(&self) -> bool {
        self.is("application/json")
    }

    /// `*/json` and `*/*+json`: data that stay JSON.
    pub(super) fn is_json(&self) -> bool {
        let Some((_, subtype)) = self.essence.split_once('/') else { return false };
        let suffix = subtype.rsplit_once('+').map_or(subtype, |(_, suffix)| suffix);
        suffix.eq_ignore_ascii_case("json")
    }

    pub(super) fn is_text(&self) -> bool {
        self.essence.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"))
    }
}
