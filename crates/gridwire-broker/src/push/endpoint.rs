//! A webhook's URL, taken apart once: who is called, and what for.
//!
//! The host is read by the WHATWG rules, so every spelling of an IPv4 address (`0x7f.1`, `2130706433`,
//! full-width digits) is that address here, long before the judge sees it.

use std::fmt;
use std::net::IpAddr;

use http::HeaderValue;
use http::uri::PathAndQuery;
use rustls_pki_types::ServerName;
use url::Url;

/// Longest URL: what common servers take as a request line.
const URL_BYTES_MAX: usize = 8 << 10;

/// Ports that belong to other protocols (the "bad ports" of the Fetch standard): a request line sent to one
/// of them could be taken for a command.
const BLOCKED_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103,
    104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514,
    515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723,
    2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

/// The host of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// In lower case and punycode, without a dot at its end.
    Name(String),
    Address(IpAddr),
}

/// Who is called. Endpoints that agree in it share their connections.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct EndpointKey {
    pub https: bool,
    pub host: Host,
    pub port: u16,
}

/// A URL that may be called as far as can be told without looking its name up.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub key: EndpointKey,
    pub path_and_query: PathAndQuery,
    /// Scheme, host and path: fit to be shown, for secrets are in the query.
    pub base: String,
}

/// Why a URL may not be a webhook's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ForbiddenEndpoint {
    #[error("it is not a URL with a host")]
    Malformed,
    #[error("it is longer than {URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("its scheme is not {}", if *.allow_http { "`http` or `https`" } else { "`https`" })]
    Scheme { allow_http: bool },
    #[error("it carries a user name or a password")]
    UserInfo,
    #[error("it has a fragment")]
    Fragment,
    #[error("port {0} belongs to another protocol")]
    Port(u16),
}

impl Endpoint {
    pub(crate) fn parse(text: &str, allow_http: bool) -> Result<Self, ForbiddenEndpoint> {
        if text.len() > URL_BYTES_MAX {
            return Err(ForbiddenEndpoint::TooLong);
        }
        // The standard drops white space silently; what is called should be what was written.
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(ForbiddenEndpoint::Malformed);
        }
        let url = Url::parse(text).map_err(|_| ForbiddenEndpoint::Malformed)?;
        let https = match url.scheme() {
            "https" => true,
            "http" if allow_http => false,
            _ => return Err(ForbiddenEndpoint::Scheme { allow_http }),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ForbiddenEndpoint::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(ForbiddenEndpoint::Fragment);
        }
        let host = match url.host().ok_or(ForbiddenEndpoint::Malformed)? {
            url::Host::Ipv4(v4) => Host::Address(IpAddr::V4(v4)),
            url::Host::Ipv6(v6) => Host::Address(IpAddr::V6(v6)),
            url::Host::Domain(name) => Host::Name(checked_name(name)?),
        };
        let port = url.port_or_known_default().ok_or(ForbiddenEndpoint::Malformed)?;
        if BLOCKED_PORTS.contains(&port) {
            return Err(ForbiddenEndpoint::Port(port));
        }
        let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let path_and_query = PathAndQuery::try_from(target).map_err(|_| ForbiddenEndpoint::Malformed)?;
        Ok(Self { key: EndpointKey { https, host, port }, path_and_query, base: base_of(&url) })
    }

    /// What may be shown of any text that was given as a URL.
    pub(crate) fn shown(text: &str) -> String {
        match Url::parse(text) {
            Ok(url) if url.has_host() => base_of(&url),
            _ => "endpointUrl".to_owned(),
        }
    }
}

/// A name without the dot that marks it as complete, if TLS could be asked for it.
fn checked_name(name: &str) -> Result<String, ForbiddenEndpoint> {
    let name = name.strip_suffix('.').unwrap_or(name);
    match ServerName::try_from(name) {
        Ok(ServerName::DnsName(_)) => Ok(name.to_owned()),
        _ => Err(ForbiddenEndpoint::Malformed),
    }
}

fn base_of(url: &Url) -> String {
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    format!("{}://{authority}{}", url.scheme(), url.path())
}

impl EndpointKey {
    /// The value of `Host`: the name as it was given, and the port unless it is the scheme's own.
    pub(crate) fn host_header(&self) -> HeaderValue {
        let default = if self.https { 443 } else { 80 };
        let text =
            if self.port == default { self.host.to_string() } else { format!("{}:{}", self.host, self.port) };
        HeaderValue::try_from(text).expect("a parsed host has no control characters")
    }

    /// Whom the endpoint's certificate must name.
    pub(crate) fn server_name(&self) -> ServerName<'static> {
        match &self.host {
            Host::Address(ip) => ServerName::IpAddress((*ip).into()),
            Host::Name(name) => ServerName::try_from(name.clone()).expect("it was checked by `parse`"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// `https://host:port`.
impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(expected: &ForbiddenEndpoint, urls: &[&str]) {
        for url in urls {
            assert_eq!(Endpoint::parse(url, false).as_ref(), Err(expected), "{url}");
        }
    }

    /// Each URL with the endpoint it calls.
    fn check_calls(rows: &[(&str, &str)]) {
        for (url, key) in rows {
            let endpoint = Endpoint::parse(url, true).expect(url);
            assert_eq!(endpoint.key.to_string(), *key, "{url}");
        }
    }

    #[test]
    fn every_spelling_of_an_address_is_that_address() {
        let here = "https://127.0.0.1:443";
        check_calls(&[
            ("https://127.0.0.1/", here),
            ("https://127.1/", here),
            ("https://127.0.1/", here),
            ("https://0x7f.1/", here),
            ("https://0x7f000001/", here),
            ("https://0177.1/", here),
            ("https://0177.0.0.01/", here),
            ("https://2130706433/", here),
            ("https://127.0.0.1./", here),
            ("https://１２７.０.０.１/", here),
            ("https://①27.0.0.1/", here),
            ("https://127。0。0。1/", here),
            ("https://%31%32%37.0.0.1/", here),
            ("https://[::1]/", "https://[::1]:443"),
            ("https://[0:0:0:0:0:0:0:1]/", "https://[::1]:443"),
            ("https://[::ffff:127.0.0.1]/", "https://[::ffff:127.0.0.1]:443"),
            ("https://[::ffff:7f00:1]/", "https://[::ffff:127.0.0.1]:443"),
            ("https://0/", "https://0.0.0.0:443"),
            ("https://1.1.257/", "https://1.1.1.1:443"),
            ("https://169.254.169.254/latest/meta-data", "https://169.254.169.254:443"),
            ("https://0xa9.0xfe.0xa9.0xfe/", "https://169.254.169.254:443"),
            ("https:\\\\10.0.0.1\\hook", "https://10.0.0.1:443"),
        ]);
    }

    #[test]
    fn names_are_compared_in_one_spelling() {
        check_calls(&[
            ("https://Example.COM/hook", "https://example.com:443"),
            ("https://example.com./hook", "https://example.com:443"),
            ("https://example.com:8443/hook", "https://example.com:8443"),
            ("https://bücher.example/hook", "https://xn--bcher-kva.example:443"),
            ("https://ｅｘａｍｐｌｅ.com/", "https://example.com:443"),
            ("HTTPS://example.com", "https://example.com:443"),
            ("https:example.com", "https://example.com:443"),
            ("https://@example.com/", "https://example.com:443"),
            ("https://a_b.example.com/", "https://a_b.example.com:443"),
            ("http://localhost:7071/api/hook", "http://localhost:7071"),
            ("http://example.com/", "http://example.com:80"),
            ("http://example.com:443/", "http://example.com:443"),
        ]);
    }

    #[test]
    fn what_is_not_a_url_with_a_host_is_refused() {
        check_refused(
            &ForbiddenEndpoint::Malformed,
            &[
                "",
                "example.com",
                "/hook",
                "https://",
                "https:///",
                "https://:443/",
                "https://exa mple.com/",
                "https://example.com/a b",
                "https://example.com/\r\nHost: other",
                "https://example.com/\n",
                "https://example.com/\0",
                "https://\texample.com/",
                " https://example.com/",
                "https://[::1/",
                "https://[fe80::1%25eth0]/",
                "https://256.0.0.1/",
                "https://1.2.3.4.5/",
                "https://0x100000000/",
                "https://example.com:99999/",
                "https://example.com:port/",
                "https://a..b/",
                "https://./",
                "https://-/",
                "https://a%00b/",
                "https://a<b/",
                "https://exa%23mple.com/",
            ],
        );
    }

    #[test]
    fn other_schemes_are_refused() {
        check_refused(
            &ForbiddenEndpoint::Scheme { allow_http: false },
            &[
                "http://example.com/",
                "ftp://example.com/",
                "file:///etc/passwd",
                "gopher://example.com/",
                "ws://example.com/",
                "wss://example.com/",
                "data:text/plain,hi",
                "javascript:alert(1)",
                "httpss://example.com/",
                "unix:/run/socket",
            ],
        );
        let refused = Endpoint::parse("ftp://example.com/", true).expect_err("no web server");
        assert_eq!(refused.to_string(), "its scheme is not `http` or `https`");
    }

    #[test]
    fn credentials_and_fragments_are_refused() {
        check_refused(
            &ForbiddenEndpoint::UserInfo,
            &[
                "https://user@example.com/",
                "https://user:pass@example.com/",
                "https://:pass@example.com/",
                "https://example.com@10.0.0.1/",
                "https://example.com%2f@10.0.0.1/",
            ],
        );
        check_refused(&ForbiddenEndpoint::Fragment, &["https://example.com/#", "https://example.com/?a#b"]);
    }

    #[test]
    fn ports_of_other_protocols_are_refused() {
        for port in BLOCKED_PORTS {
            let url = format!("https://example.com:{port}/");
            assert_eq!(Endpoint::parse(&url, false), Err(ForbiddenEndpoint::Port(port)));
        }
        for port in [80, 443, 2048, 3000, 5000, 7071, 8080, 8443, 65_535] {
            assert!(Endpoint::parse(&format!("https://example.com:{port}/"), false).is_ok(), "{port}");
        }
    }

    #[test]
    fn a_long_url_is_refused() {
        let url = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
        assert_eq!(Endpoint::parse(&url, false), Err(ForbiddenEndpoint::TooLong));
    }

    #[test]
    fn the_query_is_sent_but_never_shown() {
        let endpoint =
            Endpoint::parse("https://example.com:8443/a/b?code=s3cret&x=`{|}", false).expect("fine");
        assert_eq!(endpoint.path_and_query.as_str(), "/a/b?code=s3cret&x=`{|}");
        assert_eq!(endpoint.base, "https://example.com:8443/a/b");
        assert!(!format!("{endpoint:?}").contains("s3cret"));
        assert_eq!(
            Endpoint::shown("https://user:s3cret@example.com/a?code=s3cret#s3cret"),
            "https://example.com/a"
        );
        assert_eq!(Endpoint::shown("s3cret"), "endpointUrl");
    }

    #[test]
    fn the_host_header_names_a_port_that_is_not_the_schemes_own() {
        let header = |url| Endpoint::parse(url, true).expect("fine").key.host_header();
        assert_eq!(header("https://example.com/"), "example.com");
        assert_eq!(header("https://example.com:80/"), "example.com:80");
        assert_eq!(header("http://example.com:80/"), "example.com");
        assert_eq!(header("https://[2606:4700::1]:8443/"), "[2606:4700::1]:8443");
    }
}
