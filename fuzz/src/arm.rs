//! Management requests: a line with method and path, and a body.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use gridwire_control::{
    Control, ControlOptions, DeadLetterPatience, ManagementToken, PublicAddresses, Sealer,
};
use gridwire_core::pace::Pace;
use gridwire_core::routing::{
    BoxFuture, Consent, DeliveryPort, Handshake, HandshakeError, InstallError, RoutingTable,
};
use gridwire_core::time::Timestamp;
use gridwire_http::{Body, Peer};
use gridwire_outside::{Disk, ManualClock, MemoryDisk, SeededRng};
use gridwire_store::embedded::RedbResources;
use tokio::runtime::Runtime;

const TOKEN: &str = "a management token";
/// After so many requests everything is made anew, so that inputs depend little on one another.
const REQUESTS_MAX: u32 = 200;

/// A port that agrees to everything.
#[derive(Debug)]
struct Agreeing;

impl DeliveryPort for Agreeing {
    fn validate(&self, _: Handshake) -> BoxFuture<'_, Result<Consent, HandshakeError>> {
        Box::pin(std::future::ready(Ok(Consent::Given { pace: Pace::Free })))
    }

    fn install(&self, _: Arc<RoutingTable>) -> BoxFuture<'_, Result<(), InstallError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

struct World {
    runtime: Runtime,
    control: Arc<Control>,
    left: u32,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let disk = Arc::new(MemoryDisk::new());
        disk.create_dir_all(Path::new("/data")).expect("a new disk takes a directory");
        let store =
            RedbResources::open_inline(disk, Path::new("/data/meta.redb")).expect("a new store opens");
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_000)));
        let options = ControlOptions {
            management_token: ManagementToken::from_secret(TOKEN),
            auth_failures_max: 0,
            public: PublicAddresses {
                http: Some("http://h".to_owned()),
                https: Some("https://h".to_owned()),
                base_domain: None,
                letter_accounts: BTreeMap::new(),
            },
            allow_http_webhooks: true,
            dead_letter_patience: DeadLetterPatience::default(),
            token_issuer: true,
        };
        let opened = Control::open(
            store,
            Sealer::new([7; 32]),
            Arc::new(Agreeing),
            clock,
            Arc::new(SeededRng::new(1)),
            options,
        );
        let control = runtime.block_on(opened).expect("a control plane without resources opens");
        runtime.block_on(control.install()).expect("the port agrees");
        Self { runtime, control, left: REQUESTS_MAX }
    }
}

pub fn arm(data: &[u8]) {
    thread_local! {
        static WORLD: std::cell::RefCell<Option<World>> = const { std::cell::RefCell::new(None) };
    }
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let Ok(line) = std::str::from_utf8(&data[..at]) else { return };
    let Some((method, path)) = line.split_once(' ') else { return };
    let body = Bytes::copy_from_slice(data.get(at + 1..).unwrap_or_default());
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json")
        .body(Body::from(body));
    let Ok(request) = request else { return };
    if !Control::is_management_path(request.uri().path()) {
        return;
    }
    WORLD.with_borrow_mut(|world| {
        if world.as_ref().is_none_or(|world| world.left == 0) {
            *world = Some(World::new());
        }
        let world = world.as_mut().expect("it was just made");
        world.left -= 1;
        let peer = Peer { address: SocketAddr::from(([127, 0, 0, 1], 1)), tls: true };
        let response = world.runtime.block_on(world.control.handle(request, peer));
        assert!(response.status().as_u16() < 500, "{}", response.status());
    });
}
