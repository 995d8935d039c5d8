//! Why Gridwire itself would not call an endpoint, in words for its owner.
//!
//! An attempt only ends as forbidden; the words are found when somebody asks, by judging the subscription's URL by the
//! same options. They say what kind of address it is and never which, as the judge does. Where the URL was changed
//! since, they are about the present one.

use std::net::SocketAddr;

use super::PushOptions;
use super::endpoint::{Endpoint, Host};
use super::judge::judge_connection;

/// Why this URL may not be called; `None` when it may by now, as after a change of the configuration.
pub(crate) fn refusal(url: &str, options: &PushOptions) -> Option<String> {
    let endpoint = match Endpoint::parse(url, options.allow_http) {
        Ok(endpoint) => endpoint,
        Err(forbidden) => return Some(forbidden.to_string()),
    };
    match endpoint.key.host {
        Host::Address(ip) => {
            let denied = judge_connection(SocketAddr::new(ip, endpoint.key.port), options).err()?;
            Some(denied.to_string())
        }
        // Looked up anew, it might be another by now; an attempt was refused, so it was one of those then.
        Host::Name(_) => Some("its name leads to an address that may not be called".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Option<&str>) {
        assert_eq!(refusal(url, &PushOptions::default()).as_deref(), expected, "{url}");
    }

    #[test]
    fn each_refusal_has_its_reason() {
        check("http://example.com/hook", Some("its scheme is not `https`"));
        check("https://127.0.0.1/hook", Some("its address is a loopback address"));
        check("https://10.1.2.3/hook", Some("its address is in a private network"));
        check("https://internal.example/hook", Some("its name leads to an address that may not be called"));
        check("https://8.8.8.8/hook", None);
    }
}
