//! Webhooks with authorities and client certificates of their own.

use std::sync::{Arc, Mutex};

use gridwire_core::event::DeliverySchema;
use gridwire_core::retry::Outcome;
use gridwire_core::routing::{Consent, Handshake, SubscriptionRoute, TopicKind, Webhook};
use gridwire_core::tls_identity::{ClientCertificate, TlsIdentity};
use tokio_rustls::TlsAcceptor;

use crate::push::testing::{
    Authority, OK, Peer, Rig, TableNet, TestServer, TlsVersions, local_options, subscription,
};

const BOTH: TlsVersions = &[&rustls::version::TLS12, &rustls::version::TLS13];
const OLD: TlsVersions = &[&rustls::version::TLS12];

/// An endpoint at `hook.example`, whoever else trusts its authority.
struct Endpoint {
    server: TestServer,
    url: String,
}

impl Endpoint {
    async fn start(acceptor: TlsAcceptor) -> Self {
        let serve = |mut peer: Peer| async move {
            while peer.request().await.is_some() {
                peer.write(OK).await;
            }
        };
        let server = TestServer::start_with(Some(acceptor), serve).await;
        let url = format!("https://hook.example:{}/", server.address.port());
        Self { server, url }
    }

    /// Who calls it; `public` is believed by everybody.
    fn rig(&self, public: &[&Authority]) -> Rig {
        let extra_roots = public.iter().map(|authority| authority.certificate.clone()).collect();
        let options = crate::push::PushOptions { extra_roots, ..local_options() };
        Rig::with(options, TableNet::new([("hook.example", vec![self.server.address])]))
    }

    fn subscription(&self, number: u32, identity: Option<TlsIdentity>) -> Arc<SubscriptionRoute> {
        let route = subscription(number, &self.url, DeliverySchema::EventGrid);
        let mut route = Arc::into_inner(route).expect("nobody else has it");
        route.webhook = route.webhook.map(|webhook| Webhook { tls: identity.map(Arc::new), ..webhook });
        Arc::new(route)
    }
}

fn identity(authority: Option<&Authority>, client: Option<ClientCertificate>) -> TlsIdentity {
    TlsIdentity::new(authority.iter().map(|one| one.certificate.to_vec()).collect(), client)
}

/// One attempt on these terms.
async fn check(acceptor: TlsAcceptor, public: &[&Authority], own: Option<TlsIdentity>, outcome: Outcome) {
    let endpoint = Endpoint::start(acceptor).await;
    let mut rig = endpoint.rig(public);
    rig.start(&endpoint.subscription(1, own.clone()));
    assert_eq!(rig.finished().await.outcome, outcome, "{own:?}");
}

#[tokio::test]
async fn an_authority_of_its_own_is_believed_and_then_no_other() {
    let (ours, public) = (Authority::new(), Authority::new());
    for versions in [BOTH, OLD] {
        let of = |authority: &Authority, name| authority.acceptor(name, versions, false);
        let own = || Some(identity(Some(&ours), None));
        check(of(&ours, "hook.example"), &[&public], own(), Outcome::Accepted).await;
        check(of(&ours, "hook.example"), &[&public], None, Outcome::TlsFailed).await;
        check(of(&public, "hook.example"), &[&public], own(), Outcome::TlsFailed).await;
        check(of(&ours, "other.example"), &[&public], own(), Outcome::TlsFailed).await;
        check(ours.acceptor("hook.example", versions, true), &[], own(), Outcome::TlsFailed).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_demands_a_client_certificate_is_shown_one() {
    let (servers, clients) = (Authority::new(), Authority::new());
    for versions in [BOTH, OLD] {
        let demanding = || servers.demanding("hook.example", versions, &clients);
        let client = || Some(clients.client("gridwire"));
        check(demanding(), &[], Some(identity(Some(&servers), client())), Outcome::Accepted).await;
        // With everybody's authorities, if it has none of its own.
        check(demanding(), &[&servers], Some(identity(None, client())), Outcome::Accepted).await;
        check(demanding(), &[], Some(identity(Some(&servers), None)), Outcome::TlsFailed).await;
        let foreign = Some(servers.client("gridwire"));
        check(demanding(), &[], Some(identity(Some(&servers), foreign)), Outcome::TlsFailed).await;
        let mistrusted = Some(identity(Some(&clients), client()));
        check(demanding(), &[], mistrusted, Outcome::TlsFailed).await;
    }
}

#[tokio::test]
async fn connections_are_shared_by_equal_terms_only_and_new_terms_get_new_ones() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let endpoint = Endpoint::start(servers.demanding("hook.example", BOTH, &clients)).await;
    let mut rig = endpoint.rig(&[]);
    let one = identity(Some(&servers), Some(clients.client("one")));
    let other = identity(Some(&servers), Some(clients.client("other")));
    for (number, terms, connections) in
        [(1, one.clone(), 1), (2, one.clone(), 1), (3, other.clone(), 2), (1, one, 2), (1, other, 2)]
    {
        rig.start(&endpoint.subscription(number, Some(terms)));
        assert_eq!(rig.finished().await.outcome, Outcome::Accepted);
        assert_eq!(endpoint.server.connections(), connections, "{number}");
    }
    // A subscription's certificate is exchanged: its next attempt shows the new one, on a new connection.
    let new = identity(Some(&servers), Some(clients.client("new")));
    rig.start(&endpoint.subscription(1, Some(new)));
    assert_eq!((rig.finished().await.outcome, endpoint.server.connections()), (Outcome::Accepted, 3));
    // One that nobody trusts does not get in on a connection that is still open.
    let foreign = identity(Some(&servers), Some(servers.client("foreign")));
    rig.start(&endpoint.subscription(1, Some(foreign)));
    assert_eq!(rig.finished().await.outcome, Outcome::TlsFailed);
}

#[tokio::test]
async fn the_handshake_is_on_the_same_terms() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let origins = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&origins);
    let serve = move |mut peer: Peer| {
        let seen = Arc::clone(&seen);
        async move {
            while peer.request().await.is_some() {
                *seen.lock().expect("no panic") += 1;
                peer.write("HTTP/1.1 200 OK\r\nWebHook-Allowed-Origin: *\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    };
    let acceptor = servers.demanding("hook.example", BOTH, &clients);
    let server = TestServer::start_with(Some(acceptor), serve).await;
    let rig = Rig::with(local_options(), TableNet::new([("hook.example", vec![server.address])]));
    let handshake = |tls: Option<TlsIdentity>| Handshake {
        webhook: Webhook {
            url: format!("https://hook.example:{}/", server.address.port()),
            schema: DeliverySchema::CloudEvent,
            attributes: Vec::new(),
            signing: Vec::new(),
            token: None,
            tls: tls.map(Arc::new),
        },
        topic_resource_id: "/subscriptions/s/topics/orders".to_owned(),
        subscription_name: "billing".to_owned(),
        topic_kind: TopicKind::Custom,
        validation_url: None,
    };
    let good = identity(Some(&servers), Some(clients.client("gridwire")));
    let consent = rig.dispatcher.validate(handshake(Some(good))).await;
    assert!(matches!(consent, Ok(Consent::Given { .. })), "{consent:?}");
    for wrong in [None, Some(identity(Some(&servers), None)), Some(identity(Some(&clients), None))] {
        let refused = rig.dispatcher.validate(handshake(wrong.clone())).await.expect_err("no session");
        assert!(refused.to_string().contains("TLS"), "{wrong:?}: {refused}");
    }
    assert_eq!(*origins.lock().expect("no panic"), 1, "nobody else got a request through");
}
