//! Which addresses a webhook may have.
//!
//! Whoever may create a subscription can make the broker connect to a name of their choice. The judge keeps
//! that from becoming a way into the broker's own networks: it sees the resolved address right before the
//! connection is made, and everything that is not plainly public is denied unless an operator listed it.
//! Addresses that carry an IPv4 address inside are judged by what they carry.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::PushOptions;

/// A block of addresses: `10.0.0.0/8`, `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is not a [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a network such as `10.0.0.0/8` or `fd00::/8`")]
pub struct NetworkParseError {
    text: String,
}

impl Network {
    /// The network of all addresses whose first `prefix` bits are those of `address`; `None` when an address
    /// of that kind has fewer bits.
    pub const fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let bits = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        if prefix <= bits { Some(Self { address, prefix }) } else { None }
    }

    pub fn contains(self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => inside_v4(ip, network, self.prefix),
            (IpAddr::V6(network), IpAddr::V6(ip)) => inside_v6(ip, network, self.prefix),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkParseError;

    /// An address alone is the network of only that address.
    fn from_str(text: &str) -> Result<Self, NetworkParseError> {
        let error = || NetworkParseError { text: text.to_owned() };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().map_err(|_| error())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        Self::new(address, prefix.unwrap_or(whole)).ok_or_else(error)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Why an address may not be called. Says what kind of address it is and never which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Denied {
    #[error("its address is a loopback address")]
    Loopback,
    #[error("its address is in a private network")]
    Private,
    #[error("its address is link-local")]
    LinkLocal,
    #[error("its address is a multicast address")]
    Multicast,
    #[error("its address is reserved")]
    Reserved,
    #[error("its address is one of this service's own")]
    Own,
}

/// What is denied of IPv4 (`reliability` contract, section 3.5).
const DENIED_V4: [(Ipv4Addr, u8, Denied); 15] = [
    (Ipv4Addr::UNSPECIFIED, 8, Denied::Reserved),
    (Ipv4Addr::new(10, 0, 0, 0), 8, Denied::Private),
    (Ipv4Addr::new(100, 64, 0, 0), 10, Denied::Private),
    (Ipv4Addr::new(127, 0, 0, 0), 8, Denied::Loopback),
    (Ipv4Addr::new(169, 254, 0, 0), 16, Denied::LinkLocal),
    (Ipv4Addr::new(172, 16, 0, 0), 12, Denied::Private),
    (Ipv4Addr::new(192, 0, 0, 0), 24, Denied::Reserved),
    (Ipv4Addr::new(192, 0, 2, 0), 24, Denied::Reserved),
    (Ipv4Addr::new(192, 88, 99, 0), 24, Denied::Reserved),
    (Ipv4Addr::new(192, 168, 0, 0), 16, Denied::Private),
    (Ipv4Addr::new(198, 18, 0, 0), 15, Denied::Reserved),
    (Ipv4Addr::new(198, 51, 100, 0), 24, Denied::Reserved),
    (Ipv4Addr::new(203, 0, 113, 0), 24, Denied::Reserved),
    (Ipv4Addr::new(224, 0, 0, 0), 4, Denied::Multicast),
    (Ipv4Addr::new(240, 0, 0, 0), 4, Denied::Reserved),
];

/// What is denied of IPv6. The first row is both the unspecified address and the long-deprecated
/// "compatible" form of IPv4; loopback is before it because it has its own class.
const DENIED_V6: [(Ipv6Addr, u8, Denied); 10] = [
    (Ipv6Addr::LOCALHOST, 128, Denied::Loopback),
    (Ipv6Addr::UNSPECIFIED, 96, Denied::Reserved),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64, Denied::Reserved),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, Denied::Reserved),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, Denied::Reserved),
    (Ipv6Addr::new(0x5f00, 0, 0, 0, 0, 0, 0, 0), 16, Denied::Reserved),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, Denied::Private),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, Denied::LinkLocal),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, Denied::Private),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, Denied::Multicast),
];

/// Judges the address of one connection about to be made, our own listeners included.
pub(crate) fn judge_connection(address: SocketAddr, options: &PushOptions) -> Result<(), Denied> {
    let ip = address.ip().to_canonical();
    let mut meant = vec![ip];
    if let IpAddr::V6(v6) = ip {
        meant.extend(carried(v6).into_iter().map(IpAddr::V4));
    }
    let is_own = |own: &SocketAddr| {
        let own_ip = own.ip().to_canonical();
        let same = |ip: &IpAddr| {
            *ip == own_ip || (own_ip.is_unspecified() && (ip.is_loopback() || ip.is_unspecified()))
        };
        own.port() == address.port() && meant.iter().any(same)
    };
    if options.own_addresses.iter().any(is_own) {
        return Err(Denied::Own);
    }
    judge(address.ip(), &options.allow_networks, options.allow_loopback)
}

/// Whether `ip` may be called, with `allow` naming the exceptions.
pub fn judge(ip: IpAddr, allow: &[Network], allow_loopback: bool) -> Result<(), Denied> {
    if allow.iter().any(|network| network.contains(ip)) {
        return Ok(());
    }
    let denied = match ip {
        IpAddr::V4(v4) => DENIED_V4.iter().find(|row| inside_v4(v4, row.0, row.1)).map(|row| row.2),
        IpAddr::V6(v6) => {
            if let Some(v4) = v6.to_ipv4_mapped() {
                // Connecting to it is connecting to the IPv4 address.
                return judge(IpAddr::V4(v4), allow, allow_loopback);
            }
            for v4 in carried(v6) {
                // A translator stands in between, so "loopback" would be the translator's.
                judge(IpAddr::V4(v4), allow, false)?;
            }
            DENIED_V6.iter().find(|row| inside_v6(v6, row.0, row.1)).map(|row| row.2)
        }
    };
    match denied {
        None => Ok(()),
        Some(Denied::Loopback) if allow_loopback => Ok(()),
        Some(denied) => Err(denied),
    }
}

/// The IPv4 addresses that packets to `ip` could end at: NAT64, 6to4 and Teredo.
fn carried(ip: Ipv6Addr) -> Vec<Ipv4Addr> {
    let octets = ip.octets();
    let pick = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
    let tail = pick([12, 13, 14, 15]);
    if inside_v6(ip, Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96) {
        return vec![tail];
    }
    if inside_v6(ip, Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48) {
        // Local translators choose their prefix length inside this block (RFC 6052, section 2.2), and which
        // one is not visible: any reading that a translator could have must be harmless. Readings in
        // 0.0.0.0/8 lead nowhere, unless there is no other.
        let readings = [pick([6, 7, 9, 10]), pick([7, 9, 10, 11]), pick([9, 10, 11, 12]), tail];
        let mut real: Vec<_> = readings.into_iter().filter(|v4| v4.octets()[0] != 0).collect();
        if real.is_empty() {
            real.push(tail);
        }
        return real;
    }
    if inside_v6(ip, Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16) {
        return vec![pick([2, 3, 4, 5])];
    }
    if inside_v6(ip, Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32) {
        // Teredo: its server as it is, its client with every bit turned over.
        return vec![pick([4, 5, 6, 7]), Ipv4Addr::from_bits(!tail.to_bits())];
    }
    Vec::new()
}

fn inside_v4(ip: Ipv4Addr, network: Ipv4Addr, prefix: u8) -> bool {
    let differing = ip.to_bits() ^ network.to_bits();
    differing.leading_zeros() >= u32::from(prefix)
}

fn inside_v6(ip: Ipv6Addr, network: Ipv6Addr, prefix: u8) -> bool {
    let differing = ip.to_bits() ^ network.to_bits();
    differing.leading_zeros() >= u32::from(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    fn check(expected: Result<(), Denied>, allow: &[&str], allow_loopback: bool, addresses: &[&str]) {
        for text in addresses {
            let ip = text.parse().expect("an address");
            assert_eq!(judge(ip, &networks(allow), allow_loopback), expected, "{text}");
        }
    }

    #[test]
    fn public_addresses_may_be_called() {
        let public = [
            "1.0.0.0",
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2001:db7:ffff::1",
            "2001:db9::",
            "3ffe::1",
            "4000::1",
            "5eff::1",
            "5f01::1",
            "fbff::1",
            "100:0:0:1::",
            "0:0:0:1::",
            "2a00::1",
            "::1:0:0:0",
        ];
        check(Ok(()), &[], false, &public);
        check(Ok(()), &[], true, &public);
    }

    #[test]
    fn private_addresses_are_denied() {
        check(
            Err(Denied::Private),
            &[],
            true,
            &[
                "10.0.0.0",
                "10.255.255.255",
                "100.64.0.0",
                "100.127.255.255",
                "172.16.0.0",
                "172.31.255.255",
                "192.168.0.0",
                "192.168.255.255",
                "fc00::",
                "fd12:3456::1",
                "fdff:ffff::",
                "fec0::1",
                "feff::1",
            ],
        );
    }

    #[test]
    fn link_local_addresses_are_denied() {
        check(
            Err(Denied::LinkLocal),
            &[],
            true,
            &["169.254.0.0", "169.254.169.254", "169.254.255.255", "fe80::1", "febf:ffff::1"],
        );
    }

    #[test]
    fn multicast_addresses_are_denied() {
        check(
            Err(Denied::Multicast),
            &[],
            true,
            &["224.0.0.1", "239.255.255.255", "ff02::1", "ff00::", "ffff:ffff::"],
        );
    }

    #[test]
    fn reserved_addresses_are_denied() {
        check(
            Err(Denied::Reserved),
            &[],
            true,
            &[
                "0.0.0.0",
                "0.0.0.1",
                "0.255.255.255",
                "192.0.0.0",
                "192.0.0.255",
                "192.0.2.1",
                "192.88.99.1",
                "198.18.0.0",
                "198.19.255.255",
                "198.51.100.7",
                "203.0.113.255",
                "240.0.0.0",
                "255.255.255.255",
                "::",
                "::2",
                "::127.0.0.1",
                "::8.8.8.8",
                "::ffff:0.0.0.0",
                "100::",
                "100::ffff:ffff",
                "2001:db8::1",
                "2001:db8:ffff::1",
                "3fff::1",
                "3fff:fff:ffff::1",
                "5f00::1",
                "5f00:ffff::",
            ],
        );
    }

    #[test]
    fn loopback_is_denied_unless_it_is_allowed() {
        let loopback = ["127.0.0.1", "127.0.0.0", "127.255.255.255", "::1", "::ffff:127.0.0.1"];
        check(Err(Denied::Loopback), &[], false, &loopback);
        check(Ok(()), &[], true, &loopback);
    }

    #[test]
    fn an_ipv4_address_inside_is_judged_as_itself() {
        check(
            Ok(()),
            &[],
            false,
            &[
                "::ffff:8.8.8.8",
                "64:ff9b::8.8.8.8",
                "64:ff9b:1::8.8.8.8",
                "64:ff9b:1:808:8:800::",
                "2002:808:808::1",
                "2001:0:808:808::f7f7:f7f7",
            ],
        );
        check(
            Err(Denied::Private),
            &[],
            true,
            &[
                "::ffff:10.0.0.1",
                "::ffff:192.168.1.1",
                "64:ff9b::10.0.0.1",
                "64:ff9b::172.16.0.1",
                "64:ff9b:1::10.0.0.1",
                "64:ff9b:1:a00:0:100::",
                "64:ff9b:1:a00:0:100:808:808",
                "64:ff9b:1:0:a:1:100:0",
                "2002:a00:1::",
                "2002:c0a8:101::1",
                "2001:0:a00:1::f7f7:f7f7",
                "2001:0:808:808::f5ff:fffe",
            ],
        );
        check(
            Err(Denied::LinkLocal),
            &[],
            true,
            &[
                "::ffff:169.254.169.254",
                "64:ff9b::a9fe:a9fe",
                "2002:a9fe:a9fe::",
                "2001:0:808:808::5601:5601",
            ],
        );
        check(Err(Denied::Reserved), &[], true, &["64:ff9b::", "64:ff9b:1::", "2002::", "2001::"]);
    }

    #[test]
    fn allowing_loopback_does_not_reach_through_a_translator() {
        check(
            Err(Denied::Loopback),
            &[],
            true,
            &["64:ff9b::127.0.0.1", "64:ff9b:1::127.0.0.1", "2002:7f00:1::", "2001:0:7f00:1::f7f7:f7f7"],
        );
    }

    #[test]
    fn a_listed_network_may_be_called() {
        let allow = ["10.1.0.0/16", "fd00::/8", "127.0.0.1", "169.254.7.7/32"];
        check(
            Ok(()),
            &allow,
            false,
            &[
                "10.1.0.0",
                "10.1.255.255",
                "::ffff:10.1.2.3",
                "64:ff9b::10.1.2.3",
                "fd77::1",
                "127.0.0.1",
                "169.254.7.7",
            ],
        );
        check(Err(Denied::Private), &allow, false, &["10.0.255.255", "10.2.0.0", "fc00::1"]);
        check(Err(Denied::Loopback), &allow, false, &["127.0.0.2", "::1"]);
        check(Ok(()), &["0.0.0.0/0", "::/0"], false, &["0.0.0.0", "10.0.0.1", "::1", "ff02::1"]);
    }

    #[test]
    fn our_own_addresses_are_denied_even_when_they_are_listed() {
        let own = |own: &str, allow: &[&str]| PushOptions {
            own_addresses: vec![own.parse().expect("an address")],
            allow_networks: networks(allow),
            allow_loopback: true,
            ..PushOptions::default()
        };
        let judged =
            |options: &PushOptions, to: &str| judge_connection(to.parse().expect("an address"), options);
        let options = own("10.0.0.5:8080", &["10.0.0.0/8"]);
        assert_eq!(judged(&options, "10.0.0.5:8080"), Err(Denied::Own));
        assert_eq!(judged(&options, "[::ffff:10.0.0.5]:8080"), Err(Denied::Own));
        assert_eq!(judged(&options, "[64:ff9b::10.0.0.5]:8080"), Err(Denied::Own));
        assert_eq!(judged(&options, "10.0.0.5:8081"), Ok(()));
        assert_eq!(judged(&options, "10.0.0.6:8080"), Ok(()));
        let options = own("0.0.0.0:8080", &["0.0.0.0/0"]);
        assert_eq!(judged(&options, "127.0.0.1:8080"), Err(Denied::Own));
        assert_eq!(judged(&options, "[::1]:8080"), Err(Denied::Own));
        assert_eq!(judged(&options, "0.0.0.0:8080"), Err(Denied::Own));
        assert_eq!(judged(&options, "127.0.0.1:3000"), Ok(()));
    }

    #[test]
    fn a_network_is_an_address_with_a_prefix_its_kind_has() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/128", "fd00::/8", "1.2.3.4"] {
            assert!(text.parse::<Network>().is_ok(), "{text}");
        }
        for text in ["", "/", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8/8", "host/8"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
