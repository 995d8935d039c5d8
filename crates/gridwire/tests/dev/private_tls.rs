//! Webhooks behind an authority of their own that want to know who posts.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::support::arm::{GROUP, SUBSCRIPTION, Topic, webhook_body};
use crate::support::dev::{Dev, without_jitter};
use crate::support::time::wait_for;
use crate::support::{Arm, Server, events, program};

const SOON: Duration = Duration::from_secs(15);
const HOOK: &str = "topics/orders/eventSubscriptions/hook";

/// An authority, in PEM.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate and its key, both PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    /// What a server needs that has a certificate of this authority, and demands one of `clients`.
    fn demanding(&self, clients: &Self) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue("127.0.0.1");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(der(&clients.pem)).expect("an authority");
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(vec![der(&certificate)], key)
            .expect("a key that fits");
        Arc::new(config)
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// What was delivered: an event's id, and the certificate that was shown.
type Delivered = (String, CertificateDer<'static>);

/// An endpoint that consents and takes everything, one request a connection.
struct Endpoint {
    url: String,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    delivered: Arc<Mutex<Vec<Delivered>>>,
}

impl Endpoint {
    fn start(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("https://{}/hook", listener.local_addr().expect("it is bound"));
        let config = Arc::new(Mutex::new(config));
        let delivered = Arc::default();
        let endpoint = Self { url, config: Arc::clone(&config), delivered: Arc::clone(&delivered) };
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, delivered) =
                    (Arc::clone(&config.lock().expect("no panic")), Arc::clone(&delivered));
                // Whoever has no session with us is told so by the other side.
                thread::spawn(move || stream.and_then(|stream| serve(stream, config, &delivered)));
            }
        });
        endpoint
    }

    /// From now on new connections are on these terms.
    fn change(&self, config: Arc<ServerConfig>) {
        *self.config.lock().expect("no panic") = config;
    }

    /// The certificate that was shown with an event.
    fn wait(&self, id: &str) -> CertificateDer<'static> {
        let (_, shown) = wait_for(id, SOON, || {
            self.delivered.lock().expect("no panic").iter().find(|one| one.0 == id).cloned()
        });
        shown
    }

    fn count(&self) -> usize {
        self.delivered.lock().expect("no panic").len()
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, delivered: &Mutex<Vec<Delivered>>) -> io::Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    let mut session = StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, stream);
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    let (head, body) = loop {
        let count = session.read(&mut part)?;
        if count == 0 {
            return Ok(());
        }
        bytes.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_lowercase();
        let length = head.split("\r\n").find_map(|line| line.strip_prefix("content-length: "));
        if length.map_or(0, |length| length.parse().expect("a number")) <= body.len() {
            break (head, body.to_owned());
        }
    };
    let shown = session.conn.peer_certificates().expect("it was demanded")[0].clone().into_owned();
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let mut answer = String::new();
    if head.contains("subscriptionvalidation") {
        answer = json!({ "validationResponse": body[0]["data"]["validationCode"] }).to_string();
    } else {
        let id = body[0]["id"].as_str().expect("an id").to_owned();
        delivered.lock().expect("no panic").push((id, shown));
    }
    let length = answer.len();
    write!(session, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}")?;
    session.conn.send_close_notify();
    session.flush()
}

fn publish(server: &Server, topic: &Topic, id: &str) {
    server.send(&topic.publish(events::JSON, &json!([events::grid_event(id)]))).expect(200);
}

/// The subscription on these terms.
fn body(endpoint: &Endpoint, terms: &Value) -> Value {
    webhook_body(&endpoint.url, &json!({ "destination": { "properties": terms } }))
}

/// Whether a text is in any file below a directory.
fn is_on_file(directory: &Path, text: &str) -> bool {
    fs::read_dir(directory).expect("a directory").any(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            return is_on_file(&path, text);
        }
        // Sockets and what has just gone hold nothing.
        let bytes = fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn an_endpoint_behind_a_private_authority_that_demands_a_certificate_is_delivered_to() {
    let mut server = Server::launch(without_jitter());
    let topic = Arm::new(&server).topic("orders", &json!({}));
    let (servers, clients) = (Authority::new(), Authority::new());
    let endpoint = Endpoint::start(servers.demanding(&clients));
    let (certificate, key) = clients.issue("gridwire");
    let terms = json!({ "caCertificates": servers.pem, "clientCertificate": certificate, "clientKey": key });

    // Each of these is no session, so no consent, and nothing is kept.
    let (foreign, foreign_key) = servers.issue("gridwire");
    for wrong in [
        json!({}),
        json!({ "caCertificates": servers.pem }),
        json!({ "caCertificates": clients.pem, "clientCertificate": certificate, "clientKey": key }),
        json!({ "caCertificates": servers.pem, "clientCertificate": foreign, "clientKey": foreign_key }),
    ] {
        let refused = Arm::new(&server).call("PUT", HOOK, Some(&body(&endpoint, &wrong))).expect(400);
        assert!(refused.text().contains("no TLS session"), "{}", refused.text());
    }
    Arm::new(&server).call("GET", HOOK, None).expect(404);
    // A key that is not the certificate's is refused before anybody is asked.
    let unfit = json!({ "clientCertificate": certificate, "clientKey": foreign_key });
    let refused = Arm::new(&server).call("PUT", HOOK, Some(&body(&endpoint, &unfit))).expect(400);
    assert!(refused.text().contains("clientKey") && !refused.text().contains("BEGIN"), "{}", refused.text());

    let created = Arm::new(&server).put(HOOK, &body(&endpoint, &terms));
    let id = created["id"].as_str().expect("an id").to_owned();
    let shown = &created["properties"]["destination"]["properties"]["tls"];
    assert_eq!(shown["clientCertificate"].as_array().map(Vec::len), Some(1), "{created}");
    publish(&server, &topic, "first");
    assert_eq!(endpoint.wait("first"), der(&certificate));

    server.kill9();
    server.restart();
    publish(&server, &topic, "after-crash");
    assert_eq!(endpoint.wait("after-crash"), der(&certificate));
    for secret in [&key, &certificate, &servers.pem] {
        let kernel = secret.lines().nth(1).expect("a line of base64");
        assert!(!is_on_file(&server.data_dir(), kernel) && !server.log().contains(kernel));
    }

    // The certificate is exchanged by a PUT; the next connection shows the new one.
    let (new, new_key) = clients.issue("gridwire");
    let file = server.scratch().join("hook.json");
    let terms = json!({ "caCertificates": servers.pem, "clientCertificate": new, "clientKey": new_key });
    let wanted = json!({ "topics": [{ "name": "orders", "eventSubscriptions":
        [{ "name": "hook", "properties": body(&endpoint, &terms)["properties"] }] }] });
    fs::write(&file, wanted.to_string()).expect("a file");
    let applied = || {
        let applied = program()
            .args(["apply", "-f"])
            .arg(&file)
            .arg("--data-dir")
            .arg(server.data_dir())
            .env("GRIDWIRE_SUBSCRIPTION_ID", SUBSCRIPTION)
            .env("GRIDWIRE_RESOURCE_GROUP", GROUP)
            .output()
            .expect("the program runs");
        let said = String::from_utf8_lossy(&applied.stdout).into_owned();
        assert!(applied.status.success(), "{said}{}", String::from_utf8_lossy(&applied.stderr));
        said
    };
    let said = applied();
    assert!(said.contains("clientCertificate") && !said.contains("BEGIN"), "{said}");
    publish(&server, &topic, "exchanged");
    assert_eq!(endpoint.wait("exchanged"), der(&new));
    let said = applied();
    assert!(!said.contains("clientCertificate"), "applied again it changes nothing: {said}");

    // The endpoint trusts somebody else from now on: an attempt that fails, visibly, and is repeated.
    let others = Authority::new();
    endpoint.change(servers.demanding(&others));
    let before = endpoint.count();
    publish(&server, &topic, "refused");
    Dev(&server).drain();
    let attempts = Dev(&server).attempts(&id);
    let last = attempts.last().expect("an attempt");
    assert_eq!((last.event_id.as_str(), last.status, endpoint.count()), ("refused", None, before));
    let (trusted, trusted_key) = others.issue("gridwire");
    let terms =
        json!({ "caCertificates": servers.pem, "clientCertificate": trusted, "clientKey": trusted_key });
    Arm::new(&server).put(HOOK, &body(&endpoint, &terms));
    Dev(&server).advance("10s");
    assert_eq!(endpoint.wait("refused"), der(&trusted));
}
